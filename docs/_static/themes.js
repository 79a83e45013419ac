/* Figures have a dark twin beside them, which dark pages show. */
(() => {
  const show = () => {
    const dark = document.documentElement.dataset.theme === "dark";
    document.querySelectorAll("img.themed").forEach(image => {
      const light = image.dataset.light || (image.dataset.light = image.getAttribute("src"));
      const wanted = dark ? light.replace(/(\.\w+)$/, "_dark$1") : light;
      if (image.getAttribute("src") !== wanted) image.setAttribute("src", wanted);
    });
  };
  document.addEventListener("DOMContentLoaded", show);
  new MutationObserver(show).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
