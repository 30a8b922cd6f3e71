"use strict";
// Keys of lists: arrows turn pages, Escape leads back to the list, / goes to the search. A choice searches at once.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const links = { ArrowLeft: "a[rel=prev]", ArrowRight: "a[rel=next]", Escape: "#back" };
  if (event.key === "/") {
    const words = document.getElementById("words");
    if (words) { event.preventDefault(); words.focus(); words.select(); }
  } else if (links[event.key]) {
    const link = document.querySelector(links[event.key]);
    if (link) { event.preventDefault(); link.click(); }
  }
});
for (const select of document.querySelectorAll(".search select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
