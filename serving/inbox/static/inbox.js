// Keys, live updates, and small comforts. Every page works without this file.
(() => {
  "use strict";
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const base = document.body.dataset.base;

  // Live updates: the server says which requests changed, and htmx fetches the part that shows them.
  const part = () => $("#waiting") || $("#standing");
  function refresh(changed) {
    const shown = part();
    if (!shown) return;
    const about = shown.dataset.request;
    if (!about || !changed.length || changed.includes("") || changed.includes(about)) htmx.trigger(shown, "refresh");
  }
  // Only while it is seen: a browser opens six connections to a server, and each stream holds one.
  function follow() {
    const lamp = $("#live");
    let source = null;
    const end = () => { if (source) source.close(); source = null; lamp.hidden = true; };
    const begin = () => {
      if (source || document.hidden) return;
      source = new EventSource(document.body.dataset.events);
      source.addEventListener("changed", (event) => { lamp.hidden = false; refresh(JSON.parse(event.data)); });
      source.addEventListener("error", () => { lamp.hidden = true; });
    };
    begin();
    document.addEventListener("visibilitychange", () => { if (document.hidden) end(); else begin(); });
    addEventListener("pagehide", end);
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
    // Deadlines come nearer though nothing happens.
    setInterval(() => { if (!document.hidden) refresh([]); }, 60000);
  }
  function settle() {
    const standing = $("#standing"), forms = $("#decide");
    if (!standing) return;
    const mine = standing.dataset.mine === "yes";
    if (forms) forms.disabled = !mine;
    if (forms) forms.classList.toggle("over", !mine);
    else if (mine && !$(".editing")) location.reload();
  }
  // A session that is over: the list gives way to the login form; on a request, what was typed stays.
  document.addEventListener("htmx:after:request", (event) => {
    if (event.detail.ctx.response?.status === 401 && $("#waiting")) location.reload();
  });
  document.addEventListener("htmx:after:swap", settle);
  document.addEventListener("htmx:after:settle", settle);
  if (document.body.dataset.events && part()) follow();

  // A form is sent once.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "yes";
    form.classList.add("sent");
  });

  // A link from `holdfast inbox token` carries the token behind the #, which browsers send to nobody.
  const token = $("#token");
  if (token && location.hash.length > 40) {
    token.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
    token.form.querySelector("button").focus();
  }
  const problem = $("#problem");
  if (problem) problem.focus();

  // Keys.
  const links = () => all("#waiting .row a.what");
  const current = () => links().findIndex((link) => link.closest(".row").contains(document.activeElement));
  function move(step) {
    const shown = links(), at = current();
    if (!shown.length) return;
    const next = shown[at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + step))];
    next.focus();
    next.closest(".row").scrollIntoView({ block: "nearest" });
  }
  // From the list the browser goes to the button or the field, which still has to be used.
  function open(where) {
    const link = links()[current()];
    if (link) location.href = link.href + where;
  }
  const click = (selector) => { const found = $(selector); if (found && !found.matches(":disabled")) found.click(); };
  const list = {
    j: () => move(1), k: () => move(-1),
    a: () => open("#approve"), r: () => open("#message"), e: () => open("/edit"),
    x: () => { const link = links()[current()]; if (link) { const box = $("input[name=pick]", link.closest(".row")); if (box) box.click(); } },
  };
  const one = {
    j: () => click("a[rel=next]"), k: () => click("a[rel=prev]"),
    a: () => click("#approve"), e: () => { if (!$("#decide")?.disabled) click("#edit"); },
    r: () => { const field = $("#message"); if (field && !field.matches(":disabled")) { field.focus(); field.scrollIntoView({ block: "center" }); } },
    u: () => click(".crumbs a"),
  };
  const keys = $("#waiting") ? list : one;
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("input:not([type=checkbox]), textarea, select");
    if (field) {
      if (event.key === "Escape") field.blur();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && field.form) field.form.requestSubmit(field.form.querySelector("button"));
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });
})();
