"use strict";
(() => {
  const { blocks, config, colours, page } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const make = (tag, text, more) => Object.assign(document.createElement(tag), { textContent: text }, more);
  const state = (window.fairsweep = { drawn: 0, figures: 0, failed: [] });

  // -- light and dark: figures take their colours from the page, so nothing is drawn again
  const button = document.getElementById("theme");
  const wants = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wants.matches);
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  try { const kept = localStorage.getItem("fairsweep-theme"); if (kept) root.dataset.theme = kept; } catch { /* a file may have no storage */ }
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("fairsweep-theme", root.dataset.theme); } catch { /* as above */ }
    name();
  });
  wants.addEventListener("change", name);
  name();

  // -- what is under the pointer, as text
  const tip = document.getElementById("tip");
  const tooltip = (handler, event, item, value) => {
    if (value === null || value === undefined || value === "") { tip.hidden = true; return; }
    const lines = typeof value === "object" ? Object.entries(value) : [["", value]];
    tip.replaceChildren(...lines.filter(([, v]) => v !== null && v !== undefined && v !== "null" && v !== "").map(([k, v]) => {
      const line = make("div", "");
      line.append(make("span", k), make("b", String(v)));
      return line;
    }));
    tip.hidden = false;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const y = event.clientY + 16 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : event.clientY + 16;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  };

  // -- files of what is on the page
  const save = (text, file, type) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = make("a", "", { href: url, download: file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  const quoted = (v) => { const s = v === null || v === undefined ? "" : String(v); return /[",\r\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s; };
  const csv = (b) => [b.header, ...(b.columns[0] || []).map((_, i) => b.columns.map((c) => c[i]))].map((r) => r.map(quoted).join(",")).join("\r\n") + "\r\n";
  const light = (text) => text.replace(/var\(--(\w+)\)/g, (all, key) => (colours[key] ? colours[key][0] : all));

  // -- figures: those near the window first, the others when there is time
  const rows = (b) => (b.columns[0] || []).map((_, i) => Object.fromEntries(b.names.map((n, k) => [n, b.columns[k][i]])));
  const draw = async (id) => {
    const at = document.getElementById(id), b = blocks[id];
    if (!b || b.begun) return;
    b.begun = true;
    try {
      await vegaEmbed(at, { ...b.spec, datasets: { rows: rows(b) } }, { mode: "vega-lite", renderer: "svg", actions: false, config, tooltip, ast: false });
      at.style.minHeight = "";
    } catch (error) {
      state.failed.push(`${b.name}: ${error}`);
      at.textContent = "This figure could not be drawn; its data is below.";
    }
    state.drawn += 1;
  };
  const plots = [...document.querySelectorAll(".plot")];
  state.figures = plots.length;
  const near = new IntersectionObserver((seen) => seen.filter((s) => s.isIntersecting).forEach((s) => { near.unobserve(s.target); draw(s.target.id); }), { rootMargin: "500px" });
  plots.forEach((p) => near.observe(p));
  const idle = window.requestIdleCallback || ((f) => setTimeout(f, 60));
  const rest = async () => { const next = plots.find((p) => !blocks[p.id].begun); if (next) { await draw(next.id); idle(rest); } };
  addEventListener("load", () => setTimeout(() => idle(rest), 300));
  addEventListener("beforeprint", () => plots.forEach((p) => draw(p.id)));

  document.querySelectorAll("figure").forEach((figure) => {
    const b = blocks[figure.dataset.block], actions = figure.querySelector(".actions");
    const title = figure.querySelector("h3").textContent;
    const add = (text, label, act) => { const made = make("button", text, { type: "button" }); made.setAttribute("aria-label", `${label} of ${title}`); made.addEventListener("click", act); actions.append(made); };
    add("Data (CSV)", "Data", () => save(csv(b), `${b.name}.csv`, "text/csv"));
    add("Picture (SVG)", "Picture", () => {
      const svg = figure.querySelector("svg");
      if (!svg) return;
      const copy = svg.cloneNode(true);
      copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
      save(light(copy.outerHTML), `${b.name}.svg`, "image/svg+xml");
    });
    const words = figure.querySelector("details");
    words.addEventListener("toggle", () => { if (words.open && b.columns.length && !words.querySelector("table")) words.append(table(b, 20)); }, { once: true });
  });

  // -- tables
  const shown = (v) => {
    if (v === null || v === undefined) return "";
    if (typeof v === "number" && !Number.isInteger(v)) return String(Number(v.toPrecision(4)));
    return String(v);
  };
  const table = (b, most) => {
    const many = (b.columns[0] || []).length, wrap = make("div", "", { className: "scroll", tabIndex: 0 }), made = make("table", "");
    const head = make("tr", "");
    b.header.forEach((h) => head.append(make("th", h, { scope: "col" })));
    made.append(make("thead", ""), make("tbody", ""));
    made.tHead.append(head);
    for (let i = 0; i < Math.min(most, many); i++) { const r = make("tr", ""); b.columns.forEach((c) => r.append(make("td", shown(c[i])))); made.tBodies[0].append(r); }
    wrap.append(made);
    if (many > most) wrap.append(make("p", `The first ${most} of ${many.toLocaleString("en")} rows; all are in the CSV.`, { className: "more" }));
    return wrap;
  };
  document.querySelectorAll(".rows").forEach((at) => {
    const b = blocks[at.dataset.block], tools = at.querySelector(".tools");
    const many = (b.columns[0] || []).length;
    const download = make("button", "Data (CSV)", { type: "button" });
    download.addEventListener("click", () => save(csv(b), `${b.name}.csv`, "text/csv"));
    if (!b.paged) { tools.append(download); return; }
    const body = at.querySelector("tbody"), heads = [...at.querySelectorAll("th")];
    const numeric = heads.map((h) => h.classList.contains("n")), kinds = heads.map((h) => h.className);
    let order = [...Array(many).keys()], kept = order, first = 0, by = -1, down = false, timer;
    const find = make("input", "", { type: "search", placeholder: "Filter: words that a row must have" });
    find.setAttribute("aria-label", `Filter ${b.name}`);
    const back = make("button", "Previous", { type: "button" }), on = make("button", "Next", { type: "button" });
    const where = make("span", "", { className: "state" });
    where.setAttribute("aria-live", "polite");
    tools.append(find, back, on, where, download);
    at.querySelector(".more")?.remove();
    let texts;
    const text = (i) => (texts ||= Array.from({ length: many }, (_, k) => b.columns.map((c) => shown(c[k])).join("\u0001").toLowerCase()))[i];
    const fill = () => {
      const part = kept.slice(first, first + page);
      body.replaceChildren(...part.map((i) => { const r = make("tr", ""); b.columns.forEach((c, k) => r.append(make("td", shown(c[i]), { className: kinds[k] }))); return r; }));
      back.disabled = first === 0;
      on.disabled = first + page >= kept.length;
      where.textContent = kept.length ? `${(first + 1).toLocaleString("en")} to ${(first + part.length).toLocaleString("en")} of ${kept.length.toLocaleString("en")}` : "no row has these words";
    };
    const cut = () => { const words = find.value.toLowerCase().split(/\s+/).filter(Boolean); kept = words.length ? order.filter((i) => words.every((w) => text(i).includes(w))) : order; first = 0; fill(); };
    find.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(cut, 120); });
    back.addEventListener("click", () => { first = Math.max(0, first - page); fill(); });
    on.addEventListener("click", () => { first += page; fill(); });
    heads.forEach((h, k) => {
      const press = make("button", h.textContent, { type: "button", title: "Sort" });
      h.replaceChildren(press);
      press.addEventListener("click", () => {
        down = by === k ? !down : false;
        by = k;
        const c = b.columns[k], sign = down ? -1 : 1;
        order = [...Array(many).keys()].sort((i, j) => {
          const x = c[i], y = c[j], none = (x === null) - (y === null);
          return none || sign * (numeric[k] ? x - y : String(x).localeCompare(String(y))) || i - j;
        });
        heads.forEach((o) => o.removeAttribute("aria-sort"));
        h.setAttribute("aria-sort", down ? "descending" : "ascending");
        cut();
      });
    });
    fill();
  });
})();
