
"use strict";
(() => {
  const find = (name, root = document) => root.querySelector(name);
  const all = (name, root = document) => [...root.querySelectorAll(name)];
  const list = find("#rows"), rows = all(".row", list), form = find(".controls");
  const plural = (n) => (n === 1 ? "1 row" : `${n} rows`);

  // ------------------------------------------------------------ sort and filter
  if (form) {
    const sort = find("#sort"), order = find("#order"), text = find("#text"), count = find("#count");
    const filters = ["status", "source", "target"].map((name) => [name, find(`#${name}`)]).filter(([, menu]) => menu);
    const words = new Map();
    let descending = false, sorted = "row false";

    const contains = (row, wanted) => {
      if (!words.has(row)) words.set(row, row.textContent.replace(/\s+/g, " ").toLowerCase());
      return wanted.every((word) => words.get(row).includes(word));
    };
    const key = (row) => (row.dataset[sort.value] === "" ? NaN : Number(row.dataset[sort.value]));
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      // what has no number comes last, whichever way
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.dataset.row - b.dataset.row;
      return (descending ? y - x : x - y) || a.dataset.row - b.dataset.row;
    };
    const update = () => {
      order.textContent = descending ? "Descending" : "Ascending";
      const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !(filters.every(([name, menu]) => menu.value === "" || row.dataset[name] === menu.value)
          && contains(row, wanted));
        shown += !row.hidden;
      }
      if (sorted !== `${sort.value} ${descending}`) {
        sorted = `${sort.value} ${descending}`;
        list.append(...[...rows].sort(compare));
      }
      count.textContent = shown === rows.length ? plural(shown) : `${shown} of ${plural(rows.length)}`;
      find("#nothing").hidden = shown > 0;
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    order.addEventListener("click", () => { descending = !descending; update(); });
    for (const button of all("[data-reset]")) {
      button.addEventListener("click", () => { form.reset(); descending = false; resize(); update(); text.focus(); });
    }
    const size = find("#size");
    const resize = () => size && document.documentElement.style.setProperty("--side", `${size.value}px`);
    if (size) size.addEventListener("input", resize);
  }

  // ------------------------------------------------------------ the search paths
  const begin = (path) => {
    const points = JSON.parse(path.dataset.points), slider = find("input", path), output = find("output", path);
    const film = find(".film", path), canvas = find("canvas", path), here = find(".here", path);
    const cells = all(".at[data-column]", path.closest("article"));
    const draw = () => {
      const k = Number(slider.value);
      output.textContent = points.words[k];
      slider.setAttribute("aria-valuetext", points.words[k]);
      for (const end of ["x1", "x2"]) here.setAttribute(end, k);
      for (const cell of cells) cell.textContent = points.values[k][Number(cell.dataset.column)];
      if (canvas && film.complete && film.naturalWidth) {
        const [width, height] = [canvas.width, canvas.height];
        canvas.getContext("2d").drawImage(film, k * width, 0, width, height, 0, 0, width, height);
        canvas.setAttribute("aria-label", points.words[k]);
      }
    };
    if (film) film.addEventListener("load", draw);
    slider.addEventListener("input", draw);
    path.style.setProperty("--frames", points.words.length);
    for (const part of all("[data-live]", path.closest("article"))) part.hidden = false;
    draw();
  };
  for (const path of all(".path[data-points]")) begin(path);

  // what scrolls can be reached by keyboard, what does not is no stop on the way
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const part of all(".scroll")) watch.observe(part);
})();
