// Selecting all rows of a list, and the number of selected ones beside the buttons.
function update(form) {
  const boxes = [...form.querySelectorAll("input[name=id]")];
  const selected = boxes.filter((box) => box.checked).length;
  const all = form.querySelector("input[data-select-all]");
  if (all) {
    all.checked = selected > 0 && selected === boxes.length;
    all.indeterminate = selected > 0 && selected < boxes.length;
  }
  for (const button of form.querySelectorAll("button[data-needs-selection]")) button.disabled = selected === 0;
  const count = form.querySelector("[data-selected-count]");
  // live.js leaves a page with selected rows as it is.
  const paused = form.closest("[data-live]") ? ", updates are paused" : "";
  if (count) count.textContent = selected === 0 ? "None selected" : `${selected} selected${paused}`;
}

export function enableSelection(root) {
  const own = root.matches?.("form[data-selection]") ? [root] : [];
  const around = root.closest?.("form[data-selection]");
  for (const form of [...own, ...(around ? [around] : []), ...root.querySelectorAll("form[data-selection]")]) {
    if (!form.dataset.enabled) {
      form.dataset.enabled = "true";
      form.addEventListener("change", (event) => {
        if (event.target.matches("input[data-select-all]")) {
          for (const box of form.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
        }
        update(form);
      });
    }
    const all = form.querySelector("input[data-select-all]");
    if (all) all.hidden = false;
    update(form);
  }
}
