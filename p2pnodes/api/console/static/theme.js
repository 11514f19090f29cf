// Runs before the page is painted, so that the chosen theme does not flash up late.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const chosen = localStorage.getItem("p2pnodes-theme");
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  } catch {
    // Storage can be forbidden; the system's theme is as good.
  }
})();
