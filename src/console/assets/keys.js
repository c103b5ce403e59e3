// Keyboard shortcuts: / searches; j and k move through a list, Enter opens; g and a letter opens a page.
const pages = { o: "", h: "hooks", e: "events", d: "deliveries", r: "replays", c: "connections", s: "catalogue" };

function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

function move(step) {
  const links = [...document.querySelectorAll("#main a[data-row]")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + step, 0), links.length - 1);
  links[next].focus();
}

function openPage(letter) {
  const name = pages[letter];
  if (name === undefined) return;
  const links = document.querySelectorAll("nav.side a");
  links[Object.keys(pages).indexOf(letter)]?.click();
}

export function enableKeys() {
  let goes = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (goes) {
      goes = false;
      openPage(event.key);
    } else if (event.key === "g") {
      goes = true;
    } else if (event.key === "/") {
      event.preventDefault();
      document.getElementById("q")?.select();
      document.getElementById("q")?.focus();
    } else if (event.key === "j") {
      move(1);
    } else if (event.key === "k") {
      move(-1);
    }
  });
}
