"""The bridge to PyTorch, an extra: ``pip install 'liftflow[torch]'``.

:func:`from_torch` reads any module whose units are positively homogeneous, channel by channel;
:class:`TorchNetwork` is an architecture like any other, :class:`TorchLoss` a loss by torch's
autograd, and :class:`LawMonitor` watches the laws of an ordinary training loop.
"""

from liftflow.errors import MissingExtraError

try:
    import torch.nn as _  # noqa: F401 - not torch alone: any folder of that name would do
except ImportError as error:
    raise MissingExtraError(
        "liftflow.torch needs PyTorch, which is not installed: pip install 'liftflow[torch]'"
    ) from error

from liftflow.torch.certificate import Certificate as Certificate
from liftflow.torch.loss import TorchLoss as TorchLoss
from liftflow.torch.monitor import LawMonitor as LawMonitor
from liftflow.torch.network import TorchNetwork as TorchNetwork
from liftflow.torch.network import from_torch as from_torch
from liftflow.torch.view import TorchView as TorchView

__all__ = ["Certificate", "LawMonitor", "TorchLoss", "TorchNetwork", "TorchView", "from_torch"]
