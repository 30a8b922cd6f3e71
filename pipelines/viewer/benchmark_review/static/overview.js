"use strict";
// The overview by keyboard: O, or Enter where nothing has the focus, leads to the first open item.

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isFree = document.activeElement === document.body;
  if (event.key.toLowerCase() === "o" || (event.key === "Enter" && isFree)) {
    const begin = document.getElementById("begin");
    if (begin === null) return;
    event.preventDefault();
    location.assign(begin.href);
  }
});
