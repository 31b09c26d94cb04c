// Sets the colours before anything is drawn: the only script that the document waits for.
(() => {
  try {
    const theme = localStorage.getItem("shardnet.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // The browser keeps nothing for this page: the system's colours hold.
  }
})();
