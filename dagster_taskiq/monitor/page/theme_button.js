// The button that changes between the system's theme, light and dark, and keeps the choice.

const KEY = "dagster-taskiq-theme";
const THEMES = ["system", "light", "dark"];

/**
 * @param {HTMLButtonElement} button
 * @param {Element} name where the name of the theme stands
 * @param {() => void} onChange called when colours have changed, by the button or the system
 */
export function setUpTheme(button, name, onChange) {
  const root = document.documentElement;
  const show = () => {
    const theme = root.dataset.theme ?? "system";
    name.textContent = theme;
    button.setAttribute("aria-label", `Theme: ${theme}. Change it`);
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (next === "system") localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, next);
    } catch {
      // Storage is blocked: the choice lasts as long as the page.
    }
    show();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  show();
}
