// Follows the changes of an open page: the server sends its content again when it has changed.
function isBusy(content) {
  const active = document.activeElement;
  const isTyping = active && content.contains(active) && active.matches("input:not([type=checkbox]), textarea, select");
  const selection = getSelection();
  const isSelecting = selection && !selection.isCollapsed && content.contains(selection.anchorNode);
  return isTyping || isSelecting;
}

// Returns a path of element positions, to find the focused element again.
function place(element, root) {
  const steps = [];
  for (let at = element; at && at !== root; at = at.parentElement) steps.unshift([...at.parentElement.children].indexOf(at));
  return steps;
}

function find(steps, root) {
  return steps.reduce((at, step) => at?.children[step], root);
}

function replace(content, html) {
  const checked = new Set([...content.querySelectorAll("input[type=checkbox]:checked")].map((box) => `${box.name} ${box.value}`));
  const opened = [...content.querySelectorAll("details")].map((details) => details.open);
  const focused = content.contains(document.activeElement) ? place(document.activeElement, content) : null;
  const href = document.activeElement?.getAttribute?.("href");
  const next = document.createElement("template");
  next.innerHTML = html;
  content.replaceChildren(next.content);
  for (const box of content.querySelectorAll("input[type=checkbox]")) {
    if (checked.has(`${box.name} ${box.value}`)) box.checked = true;
  }
  const details = [...content.querySelectorAll("details")];
  if (details.length === opened.length) details.forEach((element, at) => { element.open = opened[at]; });
  if (focused) {
    const same = href && [...content.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === href);
    (same || find(focused, content))?.focus?.({ preventScroll: true });
  }
}

export function followChanges(enhance) {
  const content = document.querySelector("#content[data-live]");
  if (!content || !window.EventSource) return;
  let waiting = null;
  let source = null;
  const show = (html) => {
    if (isBusy(content)) {
      waiting = html;
      return;
    }
    waiting = null;
    replace(content, html);
    enhance(content);
  };
  const open = () => {
    if (source) return;
    source = new EventSource(content.dataset.live);
    source.addEventListener("content", (event) => show(event.data));
    source.addEventListener("end", () => { source?.close(); document.body.dataset.live = "ended"; });
    source.addEventListener("open", () => { document.body.dataset.live = "on"; });
    source.addEventListener("error", () => { document.body.dataset.live = "off"; });
  };
  const close = () => { source?.close(); source = null; };
  document.addEventListener("focusout", () => setTimeout(() => { if (waiting !== null) show(waiting); }, 0));
  // A page in the background needs no updates, and leaves its connection to others.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  if (!document.hidden) open();
}
