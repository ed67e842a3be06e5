"use strict";
(() => {
  const frames = document.getElementById("frames"), said = document.getElementById("status"), hold = document.getElementById("hold");
  const path = `/run/${encodeURIComponent(frames.dataset.name)}`;
  const EVERY = 2000;
  const state = (window.fairsweep = { version: "", updates: 0 });
  let shown = null, coming = null, held = false;

  const theme = () => { try { const kept = localStorage.getItem("fairsweep-theme"); if (kept) document.documentElement.dataset.theme = kept; } catch { /* no storage */ } };
  addEventListener("storage", theme); // the report's own button, in its frame
  theme();

  // What a reader has opened and where they are, to be found again in the newer report.
  const place = (frame) => {
    const page = frame.contentWindow, open = [...page.document.querySelectorAll("details")].map((d) => d.open);
    const words = [...page.document.querySelectorAll("input[type=search]")].map((i) => i.value);
    return { x: page.scrollX, y: page.scrollY, open, words };
  };
  const restore = (frame, at) => {
    const page = frame.contentWindow;
    const details = [...page.document.querySelectorAll("details")], finds = [...page.document.querySelectorAll("input[type=search]")];
    if (details.length === at.open.length) details.forEach((d, k) => { d.open = at.open[k]; });
    if (finds.length === at.words.length) finds.forEach((f, k) => { if (at.words[k]) { f.value = at.words[k]; f.dispatchEvent(new Event("input")); } });
    page.scrollTo(at.x, at.y);
  };
  const put = (version) => {
    const frame = document.createElement("iframe");
    frame.title = `Report of ${frames.dataset.name}`;
    frame.className = "coming";
    coming = frame;
    frame.addEventListener("load", () => {
      if (coming !== frame) { frame.remove(); return; }
      const swap = () => {
        if (shown) restore(frame, place(shown));
        frame.className = "";
        shown?.remove();
        shown = frame;
        coming = null;
        state.version = version;
        state.updates += 1;
        said.textContent = `live, ${new Date().toLocaleTimeString([], { hour12: false })}`;
      };
      // Figures near the window are drawn before the page is shown, so that nothing jumps.
      shown ? setTimeout(swap, 700) : swap();
    });
    frame.src = `${path}/report?v=${version}`;
    frames.append(frame);
  };
  const look = async () => {
    try {
      const answer = await fetch(`${path}/version`, { cache: "no-cache" });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const { version } = await answer.json();
      if (version && version !== state.version && !coming && !held) put(version);
      else if (!version) said.textContent = "reading the store";
      else if (!held && said.textContent.startsWith("no answer")) said.textContent = "live";
    } catch (error) {
      const why = String(error.message || error);
      said.textContent = /^40[34]/.test(why) ? why : "no answer from the dashboard";
    }
  };
  hold.addEventListener("click", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    hold.textContent = held ? "Go on" : "Pause";
    said.textContent = held ? "paused" : "live";
    if (!held) look();
  });
  const go = async () => { if (!document.hidden) await look(); setTimeout(go, EVERY); };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  go();
})();
