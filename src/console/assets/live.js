// Follows the changes of an open page: the server sends its content again when it has changed.
let isPointerDown = false;

// An update would disturb the user: the text that is typed or marked, the rows that are selected, the button that is pressed.
function isBusy(content) {
  const active = document.activeElement;
  const isTyping = active && content.contains(active) && active.matches("input:not([type=checkbox]), textarea, select");
  const selection = getSelection();
  const isMarking = selection && !selection.isCollapsed && content.contains(selection.anchorNode);
  const hasRows = content.querySelector("form[data-selection] input[name=id]:checked") !== null;
  return isTyping || isMarking || hasRows || isPointerDown;
}

// Returns true if the user has changed a field that was not sent yet.
function isChanged(field) {
  if (field.type === "hidden") return false;
  if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
  if (field instanceof HTMLSelectElement) {
    const initial = [...field.options].findIndex((option) => option.defaultSelected);
    return field.selectedIndex !== Math.max(initial, 0);
  }
  return "defaultValue" in field && field.value !== field.defaultValue;
}

// Puts the forms with changed fields in the place of the new ones.
function keepForms(content, next) {
  for (const form of content.querySelectorAll("form:not([data-selection])")) {
    if (![...form.elements].some(isChanged)) continue;
    const same = [...next.querySelectorAll("form")].find((other) => other.getAttribute("action") === form.getAttribute("action")
      && other.className === form.className);
    same?.replaceWith(form);
  }
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
  const opened = [...content.querySelectorAll("details")].map((details) => details.open);
  const active = document.activeElement;
  const focused = content.contains(active) ? place(active, content) : null;
  const href = active?.getAttribute?.("href");
  const next = document.createElement("template");
  next.innerHTML = html;
  keepForms(content, next.content);
  content.replaceChildren(next.content);
  const details = [...content.querySelectorAll("details")];
  if (details.length === opened.length) details.forEach((element, at) => { element.open = opened[at]; });
  if (focused) {
    const kept = content.contains(active) && active;
    const same = href && [...content.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === href);
    (kept || same || find(focused, content))?.focus?.({ preventScroll: true });
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
  const showWaiting = () => setTimeout(() => { if (waiting !== null) show(waiting); }, 0);
  const open = () => {
    if (source) return;
    source = new EventSource(content.dataset.live);
    source.addEventListener("content", (event) => show(event.data));
    source.addEventListener("end", () => { source?.close(); document.body.dataset.live = "ended"; });
    source.addEventListener("open", () => { document.body.dataset.live = "on"; });
    source.addEventListener("error", () => { document.body.dataset.live = "off"; });
  };
  const close = () => { source?.close(); source = null; };
  document.addEventListener("focusout", showWaiting);
  // A selection that was cleared.
  content.addEventListener("change", showWaiting);
  // Of other buttons the end is not always reported: a context menu takes it.
  document.addEventListener("pointerdown", (event) => { if (event.button === 0) isPointerDown = true; });
  for (const end of ["pointerup", "pointercancel", "blur"]) {
    // After the click, whose target must still be there.
    window.addEventListener(end, () => setTimeout(() => { isPointerDown = false; showWaiting(); }, 0));
  }
  // A page in the background needs no updates, and leaves its connection to others.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  if (!document.hidden) open();
}
