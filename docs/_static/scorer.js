/* Pages of the gallery come first, then the guides; pages of code and lists of sources last. */
var Scorer = {
  score: ([page, title, anchor, description, score]) =>
    score
    + (page.startsWith("gallery/plot_") ? 40 : /^[a-z]+$/.test(page) ? 35 : 0)
    - (/^(_modules|bibliography|benchmarks|changelog|notation|api$)/.test(page) ? 65 : 0)
    - (page.startsWith("api/") ? 25 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
