"use strict";
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const one = (selector, root = document) => root.querySelector(selector);
  const chosen = (name) => one(`input[name="${name}"]:checked`)?.value;
  const onChoice = (name, act) => all(`input[name="${name}"]`).forEach((input) => input.addEventListener("change", act));
  document.documentElement.classList.add("scripted");

  // The table: what is not known and what failed stays below, whichever way it is sorted.
  function sortable(table) {
    const body = table.tBodies[0];
    const given = Array.from(body.rows);
    const heads = all("thead th", table);
    const key = (row, place) => row.cells[place]?.dataset.value ?? "";
    function sort(place) {
      const head = heads[place];
      const words = head.classList.contains("words");
      const first = words || head.dataset.better === "lower" || !head.dataset.better ? "ascending" : "descending";
      const before = head.getAttribute("aria-sort");
      const other = first === "ascending" ? "descending" : "ascending";
      const order = before === first ? other : before === other ? null : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      const sign = order === "descending" ? -1 : 1;
      const number = (text) => (text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text));
      const compare = (a, b) => {
        const [x, y] = [key(a, place), key(b, place)];
        if (x === "" || y === "") return (x === "") - (y === "");
        if (words) return sign * x.localeCompare(y, undefined, { numeric: true });
        return number(x) === number(y) ? 0 : sign * (number(x) < number(y) ? -1 : 1);
      };
      const failed = (row) => row.classList.contains("failed");
      const rows = order ? given.slice().sort((a, b) => failed(a) - failed(b) || compare(a, b)) : given;
      given.forEach((row) => row.classList.toggle("begins", !order && row.dataset.begins === "1"));
      body.append(...rows);
      if (order) head.setAttribute("aria-sort", order);
      const title = one("button", head).textContent.trim();
      one("#table .status").textContent = order ? `Sorted by ${title}, ${order}.` : "In the order of the run.";
    }
    given.forEach((row) => { row.dataset.begins = row.classList.contains("begins") ? "1" : ""; });
    heads.forEach((head, place) => one("button", head)?.addEventListener("click", () => sort(place)));
  }
  all("table.sortable").forEach(sortable);
  onChoice("table-budget", () => {
    const budget = chosen("table-budget");
    all("#table tbody tr").forEach((row) => {
      row.hidden = Boolean(budget) && row.dataset.budget !== budget && !row.classList.contains("reference");
    });
  });

  // Methods: every legend shows the same choice; charts and pictures follow it.
  const boxes = all(".chip input");
  const off = () => new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  function follow() {
    const hidden = off();
    all(".series").forEach((line) => { line.style.display = hidden.has(line.dataset.method) ? "none" : ""; });
    filterPictures();
  }
  function set(method, checked) {
    boxes.forEach((box) => { if (method === null || box.value === method) box.checked = checked; });
    follow();
  }
  boxes.forEach((box) => box.addEventListener("change", () => set(box.value, box.checked)));
  all("[data-all]").forEach((button) => button.addEventListener("click", () => set(null, button.dataset.all === "1")));
  function light(method) {
    all(".chart svg").forEach((drawing) => drawing.classList.toggle("dimmed", method !== null));
    all(".series").forEach((line) => line.classList.toggle("lit", line.dataset.method === method));
  }
  all(".chip").forEach((chip) => {
    chip.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") light(chip.dataset.method); });
    chip.addEventListener("pointerleave", () => light(null));
  });

  function showAxis() {
    const axis = chosen("frontier-axis");
    all(".chart[data-axis]").forEach((figure) => { figure.hidden = figure.dataset.axis !== axis; });
  }
  onChoice("frontier-axis", showAxis);
  showAxis();

  // Pictures side by side.
  const isReference = (figure) => figure.dataset.method === "reference";
  const figures = all("article figure");
  function filterPictures() {
    const budget = chosen("picture-budget");
    const hidden = off();
    const difference = chosen("picture-view") === "difference";
    figures.forEach((figure) => {
      figure.hidden = !isReference(figure) && (figure.dataset.budget !== budget || hidden.has(figure.dataset.method));
      if (!figure.hidden) showDifference(figure, difference && !isReference(figure));
    });
  }
  function showDifference(figure, wanted) {
    const frame = one("button.frame", figure);
    const reference = all("figure", figure.parentElement).find(isReference);
    if (!frame || !reference || !one("img", reference)) return;
    frame.classList.toggle("difference", wanted);
    one(".twin", frame)?.remove();
    if (wanted) {
      const twin = one("img", reference).cloneNode();
      twin.classList.add("twin");
      twin.alt = "";
      frame.append(twin);
    }
  }
  onChoice("picture-budget", filterPictures);
  onChoice("picture-view", filterPictures);
  filterPictures();

  // One picture against the reference.
  const compare = one(".compare");
  if (!compare) return;
  const stage = one(".stage .frame", compare);
  const select = (name) => one(`select[name="${name}"]`, compare);
  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
  const ofPrompt = () => all(`article[data-prompt="${Number(select("prompt").value)}"] figure`);
  const shown = (figure) => one("img", figure);
  function fill(name, pairs) {
    const before = select(name).value;
    select(name).replaceChildren(...pairs.map(([value, text]) => option(value, text)));
    if (pairs.some(([value]) => value === before)) select(name).value = before;
  }
  function fillMethods() {
    const pairs = new Map();
    ofPrompt().filter((each) => !isReference(each) && shown(each)).forEach((each) => pairs.set(each.dataset.method, each.dataset.title));
    fill("method", Array.from(pairs));
    fillBudgets();
  }
  function fillBudgets() {
    const method = select("method").value;
    const budgets = ofPrompt().filter((each) => each.dataset.method === method && shown(each)).map((each) => each.dataset.budget);
    const words = (budget) => (budget === "–" ? "published setting" : budget);
    fill("budget", Array.from(new Set(budgets)).map((budget) => [budget, words(budget)]));
    put();
  }
  function put() {
    const figure = ofPrompt().find(
      (each) => each.dataset.method === select("method").value && each.dataset.budget === select("budget").value,
    );
    const reference = ofPrompt().find(isReference);
    compare.hidden = !figure || !shown(figure) || !reference || !shown(reference);
    if (compare.hidden) return;
    for (const [image, source] of [[one(".under", stage), shown(reference)], [one(".over", stage), shown(figure)]]) {
      image.src = source.src;
      image.alt = source.alt;
      image.classList.toggle("small", source.classList.contains("small"));
    }
    one(".other", compare).textContent = `${figure.dataset.title}, ${one(`option:checked`, select("budget")).textContent}`;
    one("p.words", compare).textContent = figure.dataset.figures;
  }
  select("prompt").addEventListener("change", fillMethods);
  select("method").addEventListener("change", fillBudgets);
  select("budget").addEventListener("change", put);
  one('[name="divide"]', stage).addEventListener("input", (event) => stage.style.setProperty("--at", `${event.target.value}%`));
  onChoice("view", () => {
    const difference = chosen("view") === "difference";
    stage.classList.toggle("difference", difference);
    one(".amplify", compare).hidden = !difference;
  });
  one('[name="amplify"]', compare).addEventListener("input", (event) => {
    stage.style.setProperty("--amplify", event.target.value);
    one("output", compare).textContent = event.target.value;
  });
  figures.forEach((figure) => one("button.frame", figure)?.addEventListener("click", () => {
    if (isReference(figure)) return;
    select("prompt").value = figure.closest("article").dataset.prompt;
    fillMethods();
    select("method").value = figure.dataset.method;
    fillBudgets();
    select("budget").value = figure.dataset.budget;
    put();
    compare.scrollIntoView({ behavior: "smooth", block: "nearest" });
  }));
  fillMethods();
  const smallest = select("budget").options;
  if (smallest.length) select("budget").value = smallest[smallest.length - 1].value;
  put();
})();
