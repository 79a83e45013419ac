/* Figures and cards have a dark twin beside them, which dark pages show; the figure in 3-D has its
   ink from the page. */
(() => {
  const show = () => {
    const dark = document.documentElement.dataset.theme === "dark";
    document.querySelectorAll("img.themed, .sphx-glr-thumbcontainer img").forEach(image => {
      image.classList.add("dark-light"); // for the theme to leave it as it is
      const light = image.dataset.light || (image.dataset.light = image.getAttribute("src"));
      const wanted = dark ? light.replace(/(\.\w+)$/, "_dark$1") : light;
      if (image.getAttribute("src") !== wanted) image.setAttribute("src", wanted);
    });
    const figure = document.querySelector(".js-plotly-plot");
    const ink = getComputedStyle(document.body).color;
    if (figure) Plotly.relayout(figure, { "font.color": ink, "sliders[0].tickcolor": ink });
  };
  /* A card shows the number of its script. */
  const number = () => document.querySelectorAll(".sphx-glr-thumbcontainer").forEach(card => {
    const found = card.querySelector("a").getAttribute("href").match(/plot_(\d\d)_/);
    if (found) card.querySelector(".sphx-glr-thumbnail-title").prepend(`${found[1]}\u2002`);
  });
  document.addEventListener("DOMContentLoaded", () => { show(); number(); });
  new MutationObserver(show).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
