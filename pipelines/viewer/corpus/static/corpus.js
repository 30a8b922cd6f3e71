"use strict";
// M shows masks or not; buttons show the masks of a turn.
const picture = document.getElementById("picture");
const masks = document.getElementById("masks");
let drawn = picture?.getAttribute("src");
function show(withMasks) {
  picture.src = withMasks ? drawn : masks.dataset.plain;
  masks.setAttribute("aria-pressed", String(withMasks));
}
masks?.addEventListener("click", () => show(masks.getAttribute("aria-pressed") !== "true"));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (event.key.toLowerCase() === "m") masks?.click();
});
for (const button of document.querySelectorAll("button.turn")) {
  button.addEventListener("click", () => {
    drawn = button.dataset.picture;
    show(true);
    for (const other of document.querySelectorAll("button.turn")) other.setAttribute("aria-pressed", String(other === button));
  });
}
