// Enhances the pages of the console. Every page and every action works without it.
import { localizeTimes } from "./times.js";
import { enableCopying } from "./copy.js";
import { enableSelection } from "./selection.js";
import { enableKeys } from "./keys.js";
import { followChanges } from "./live.js";

// Parts of a page that is updated are enhanced again.
function enhance(root) {
  localizeTimes(root);
  enableCopying(root);
  enableSelection(root);
}

enhance(document);
enableKeys();
followChanges(enhance);
