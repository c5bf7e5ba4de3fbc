// What the pages ask for under this name, and the mdBook of Debian 13 does not bring: colours of code, and the choice of a theme.
// The rest works without a script. Pages choose the theme of the browser's preference, or what was chosen here before.
(() => {
  const html = document.documentElement;
  const themes = ['light', 'rust', 'coal', 'navy', 'ayu'];
  const colours = { light: 'highlight-css', rust: 'highlight-css', coal: 'tomorrow-night-css', navy: 'tomorrow-night-css', ayu: 'ayu-highlight-css' };
  const prefersDark = matchMedia('(prefers-color-scheme: dark)');
  const chosen = () => {
    try { return localStorage.getItem('mdbook-theme'); } catch { return null; }
  };

  function show() {
    const theme = themes.includes(chosen()) ? chosen() : prefersDark.matches ? 'navy' : 'light';
    html.classList.remove(...themes);
    html.classList.add(theme);
    for (const id of new Set(Object.values(colours))) {
      const sheet = document.getElementById(id);
      if (sheet) sheet.disabled = id !== colours[theme];
    }
  }

  show();
  prefersDark.addEventListener('change', show);

  const button = document.getElementById('theme-toggle');
  const list = document.getElementById('theme-list');
  if (button && list) {
    const open = (isOpen) => {
      list.style.display = isOpen ? 'block' : 'none';
      button.setAttribute('aria-expanded', String(isOpen));
      if (isOpen) list.querySelector('button').focus();
    };
    button.addEventListener('click', () => open(list.style.display !== 'block'));
    list.addEventListener('click', (event) => {
      const choice = event.target.closest('button');
      if (!choice) return;
      try {
        if (themes.includes(choice.id)) localStorage.setItem('mdbook-theme', choice.id);
        else localStorage.removeItem('mdbook-theme');
      } catch { /* nowhere to keep it: it counts for this page */ }
      show();
      open(false);
      button.focus();
    });
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && list.style.display === 'block') { open(false); button.focus(); }
    });
  }

  if (window.hljs) {
    for (const block of document.querySelectorAll('pre code[class*="language-"]')) {
      if (!block.classList.contains('language-text')) (hljs.highlightElement || hljs.highlightBlock).call(hljs, block);
      block.classList.add('hljs');
    }
  }
})();
