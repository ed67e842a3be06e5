"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, more) => Object.assign(document.createElement(tag), { textContent: text }, more);
  const EVERY = 2000, KINDS = { comparisons: "comparison", claims: "claims" };
  const state = (window.fairsweep = { updates: 0, failed: "" });
  const kept = new Map(); // name -> what its row shows, so that rows stay where nothing has changed
  try { const theme = localStorage.getItem("fairsweep-theme"); if (theme) document.documentElement.dataset.theme = theme; } catch { /* no storage */ }

  const progress = (line) => {
    const cell = make("div", "", { className: "progress" });
    const unit = { sweep: "trials", comparisons: "searches" }[line.kind], n = (k) => k.toLocaleString("en");
    if (!unit) return cell;
    cell.append(make("span", `${n(line.done)}${line.total ? ` of ${n(line.total)}` : ""} ${unit}`));
    if (line.total) {
      const bar = make("progress", "", { max: line.total, value: Math.min(line.done, line.total) });
      bar.setAttribute("aria-label", `${unit} of ${line.name}`);
      cell.append(bar);
    }
    return cell;
  };
  const row = (line) => {
    const made = make("a", "", { className: "row", href: `/run/${encodeURIComponent(line.name)}` });
    const first = make("div", "", { className: "name" });
    first.append(make("b", line.name), make("span", [line.what, line.data && `on ${line.data}`].filter(Boolean).join(" ")));
    const said = make("span", line.state || KINDS[line.kind], { className: `state ${(line.state || "").replace(" ", "-")}` });
    made.append(first, said, line.problem ? make("div", line.problem, { className: "problem" }) : progress(line), make("div", line.best || "", { className: "best" }));
    return made;
  };
  const fill = (id, lines) => {
    const at = byId(id), rows = at.querySelector(".rows");
    at.hidden = !lines.length;
    const old = new Map([...rows.children].map((r) => [r.dataset.name, r]));
    lines.forEach((line, k) => {
      const key = `${line.kind}/${line.name}`, text = JSON.stringify(line);
      let made = old.get(key);
      if (!made || kept.get(key) !== text) {
        const fresh = row(line);
        fresh.dataset.name = key;
        if (made) { const focused = document.activeElement === made; made.replaceWith(fresh); if (focused) fresh.focus(); }
        made = fresh;
        kept.set(key, text);
      }
      if (rows.children[k] !== made) rows.insertBefore(made, rows.children[k] || null);
      old.delete(key);
    });
    old.forEach((gone) => gone.remove());
  };
  let last = "";
  const look = async () => {
    try {
      const answer = await fetch("/index.json", { cache: "no-cache" });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const text = await answer.text();
      if (text !== last) {
        const lines = JSON.parse(text);
        fill("runs", lines.filter((l) => l.kind !== "sweep"));
        fill("sweeps", lines.filter((l) => l.kind === "sweep" && !l.of));
        fill("parts", lines.filter((l) => l.kind === "sweep" && l.of));
        byId("none").hidden = lines.length > 0;
        last = text;
        state.updates += 1;
      }
      byId("status").textContent = "live";
      state.failed = "";
    } catch (error) {
      state.failed = String(error.message || error);
      byId("status").textContent = state.failed.startsWith("403") ? state.failed : "no answer from the dashboard";
    }
  };
  const go = async () => { if (!document.hidden) await look(); setTimeout(go, EVERY); };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  go();
})();
