// Runs before the first paint, so that a chosen theme does not follow a flash of the other one.
// Not a module, since modules run later. theme_button.js changes the choice.
try {
  const theme = localStorage.getItem("dagster-taskiq-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the system's theme.
}
