"use strict";
// Before the first paint, so that a page in a theme that was chosen does not flash in the other.
try {
  const theme = localStorage.getItem("libra-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing shows what the system prefers.
}
