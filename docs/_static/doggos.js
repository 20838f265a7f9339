/* From the file system a page may not read another one, so results go without text. */
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
/* The theme's toggles of its navigation have no name. */
addEventListener("DOMContentLoaded", () => {
  for (const toggle of document.querySelectorAll("summary:has(.toctree-toggle)"))
    toggle.ariaLabel = "The pages below this one";
});
