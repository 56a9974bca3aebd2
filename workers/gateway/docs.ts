/**
 * `GET /docs`: the API reference as one page that needs nothing but this server: it draws /openapi.json, which is made of the schemas that
 * validate. A ready-made viewer was the alternative: 4.35 MB of script that asks a CDN for itself unless it is vendored.
 */

import type { App } from "../../lib/http/index.ts";

/** Only what the page itself holds runs, and it may call this server alone. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

export function serveDocs(app: App): void {
  app.get("/docs", (c) => c.html(PAGE, 200, { "content-security-policy": POLICY }));
}

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Skein API</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #2a6fdb }
  body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1.5rem }
  h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line) }
  details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: .4rem .7rem }
  summary { cursor: pointer } code, pre { font: 13px/1.45 ui-monospace, monospace }
  .verb { display: inline-block; min-width: 4.2rem; font-weight: 700; color: var(--mark) }
  .note { opacity: .75; margin-left: .6rem }
  pre { background: var(--soft); border-radius: .3rem; overflow-x: auto; padding: .6rem }
  table { border-collapse: collapse; width: 100% } td, th { border-top: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top }
  #find { font: inherit; padding: .35rem .6rem; width: 100%; box-sizing: border-box }
</style>
<h1>Skein API</h1>
<p>Drawn from <a href="/openapi.json">/openapi.json</a>. Errors are RFC 9457 problems with a <code>code</code>, and say whether the same call
may be sent again. Times are Unix milliseconds. Unknown fields are refused.</p>
<input id="find" type="search" placeholder="Find a path or a word" aria-label="Find">
<main></main>
<script>
const main = document.querySelector("main");
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const typeOf = (schema) => {
  if (!schema) return "";
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const any = schema.anyOf || schema.oneOf;
  if (any) return any.map(typeOf).join(" | ");
  if (schema.type === "array") return typeOf(schema.items) + "[]";
  return schema.type || "any";
};
const limitsOf = (schema) => ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "default"]
  .filter((name) => schema[name] !== undefined).map((name) => name + " " + JSON.stringify(schema[name])).join(", ");
const rowsOf = (schema, indent) => Object.entries(schema.properties || {}).flatMap(([name, property]) => [
  [indent + name + ((schema.required || []).includes(name) ? "" : "?"), typeOf(property), limitsOf(property)],
  ...rowsOf(property.type === "array" ? property.items || {} : property, indent + name + "."),
]);
const table = (rows) => {
  const element = make("table");
  for (const cells of rows) {
    const row = element.insertRow();
    for (const [i, cell] of cells.entries()) row.insertCell().append(make(i === 2 ? "span" : "code", cell));
  }
  return element;
};
const schemaOf = (content) => content && Object.values(content)[0] && Object.values(content)[0].schema;
const show = (parent, title, schema) => {
  if (!schema) return;
  parent.append(make("h4", title));
  const rows = rowsOf(schema, "");
  parent.append(rows.length > 0 ? table(rows) : make("pre", typeOf(schema)));
};
const draw = (path, verb, operation) => {
  const box = make("details");
  box.dataset.words = (verb + " " + path + " " + (operation.summary || "")).toLowerCase();
  const head = make("summary");
  head.append(make("span", verb.toUpperCase(), "verb"), make("code", path), make("span", operation.summary, "note"));
  box.append(head);
  if (operation.description) box.append(make("p", operation.description));
  const parameters = (operation.parameters || []).map(({ name, in: place, required, schema }) =>
    [name + (required ? "" : "?"), place + " " + typeOf(schema), limitsOf(schema || {})]);
  if (parameters.length > 0) box.append(make("h4", "Parameters"), table(parameters));
  show(box, "Body", schemaOf(operation.requestBody && operation.requestBody.content));
  for (const [status, response] of Object.entries(operation.responses || {})) {
    if (status !== "default") show(box, status + " " + (response.description || ""), schemaOf(response.content) || { type: "no body" });
  }
  return box;
};
const group = (path) => path.split("/").filter((part) => part && part !== "v1")[0] || "/";
fetch("/openapi.json").then((response) => response.json()).then(({ paths }) => {
  const groups = new Map();
  for (const [path, operations] of Object.entries(paths)) {
    for (const [verb, operation] of Object.entries(operations)) {
      const name = group(path);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(draw(path, verb, operation));
    }
  }
  for (const [name, boxes] of groups) {
    const section = make("section");
    section.append(make("h2", name), ...boxes);
    main.append(section);
  }
});
document.querySelector("#find").addEventListener("input", ({ target }) => {
  const wanted = target.value.trim().toLowerCase();
  for (const section of main.children) {
    for (const box of section.querySelectorAll("details")) box.hidden = !box.dataset.words.includes(wanted);
    section.hidden = ![...section.querySelectorAll("details")].some((box) => !box.hidden);
  }
});
</script>
`;
