"""One thread each, as for BLAS."""

import torch

torch.set_num_threads(1)
