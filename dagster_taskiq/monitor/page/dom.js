// Building and updating elements. Every string becomes text or an attribute, and never HTML: the
// names of jobs, steps and workers are whatever somebody has written.

/** @typedef {string | number | Node | null | undefined | false} Child */

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [props] attributes; `on...` are listeners; `false` and null are left out
 * @param {...(Child | Child[])} children
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** Set an attribute; false and null remove it, true is the empty one. Nothing is written twice. */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** Set the text of an element, if it is another one: the selection of a user stays. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Put children into an element in place of what is there, if `key` has changed since the last time. */
export function fill(element, key, makeChildren) {
  if (element.filledWith === key) return;
  element.filledWith = key;
  element.replaceChildren(
    ...[makeChildren()].flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
}

/**
 * Give a parent one element for each item, in their order. The element of a key stays the same, so
 * that focus, selection and what is unfolded survive updates.
 * @template T
 * @param {Element} parent which has no other children
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => Element} create
 * @param {(element: Element, item: T) => void} update
 */
export function sync(parent, items, keyOf, create, update) {
  const before = parent.elementsByKey ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (after.has(key)) continue;
    const element = before.get(key) ?? create(item);
    update(element, item);
    after.set(key, element);
  }
  for (const [key, element] of before) if (!after.has(key)) element.remove();
  let next = parent.firstElementChild;
  for (const element of after.values()) {
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  parent.elementsByKey = after;
}

/**
 * A list that shows the first of many items, and a button for more of them.
 */
export class CappedList {
  /**
   * @param {Element} parent
   * @param {number} step how many are shown at first, and how many more with each click
   * @param {() => void} onMore called when more are to be shown
   */
  constructor(parent, step, onMore) {
    this.limit = step;
    this.button = h("button", {
      type: "button",
      class: "more",
      hidden: true,
      onclick: () => {
        this.limit += step;
        onMore();
      },
    });
    this.step = step;
    parent.append(this.button);
  }

  /** Return the items to show, and say how many more there are. */
  cut(items, what) {
    const rest = items.length - this.limit;
    this.button.hidden = rest <= 0;
    if (rest > 0) setText(this.button, `Show ${Math.min(rest, this.step)} more of ${rest} ${what}`);
    return rest > 0 ? items.slice(0, this.limit) : items;
  }
}
