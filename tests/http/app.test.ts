/** Problems, bodies and inputs over a real socket: reliability.md §3, C and D as far as HTTP goes. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { createApp, describeInput, readInput } from "../../lib/http/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { rawHttp } from "../support/raw-http.ts";

const ThingParams = v.strictObject({
  thing: v.pipe(v.string(), v.regex(/^[a-z]{1,8}$/, "must be 1..8 of [a-z]")),
  text: v.pipe(v.string("must be a string"), v.maxLength(10, "must be at most 10 characters")),
  more: v.optional(
    v.strictObject({ count: v.pipe(v.number("must be a whole number"), v.integer("must be a whole number")) }),
  ),
});
const ListParams = v.strictObject({
  limit: v.optional(
    v.pipe(v.number("must be a whole number from 1 to 200"), v.integer(), v.maxValue(200, "must be at most 200")),
    50,
  ),
  before: v.optional(v.string()),
});

const app = createApp({ log: silentLog, clock: systemClock });
app.post(
  "/v1/things/:thing",
  describeInput({
    method: "post",
    summary: "Make",
    input: ThingParams,
    path: ["thing"],
    replies: { 200: ThingParams },
  }),
  async (c) => c.json(await readInput(c, ThingParams, { path: ["thing"], bodyBytesMax: 1_000 })),
);
app.get("/v1/things", async (c) => c.json(await readInput(c, ListParams, { path: [] })));
app.get("/v1/limited", () => {
  throw new AppError("RATE_LIMITED", undefined, { retryAfterMs: 1_200 });
});
app.get("/v1/decided", () => {
  throw new AppError("CONFLICT", "it was rolled back", { state: "rolled_back" });
});
app.get("/v1/broken", () => {
  throw new Error("the password is swordfish");
});

let server: ReturnType<typeof Bun.serve>;
let url: string;
beforeAll(() => {
  server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => app.fetch(request, {}) });
  url = `http://127.0.0.1:${server.port}`;
});
afterAll(() => server.stop(true));

const post = (
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = { "content-type": "application/json" },
  path = "/v1/things/a",
) => fetch(url + path, { method: "POST", body, headers });

interface Problem {
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly type: string;
  readonly detail: string;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  readonly issues?: readonly { path: string; message: string }[];
}

async function problemOf(response: Response): Promise<Problem> {
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const problem = (await response.json()) as Problem;
  expect(problem.status).toBe(response.status);
  return problem;
}

test("a good body passes", async () => {
  const response = await post('{"text":"hi"}');
  expect(response.status).toBe(200);
  expect(await response.json()).toEqual({ thing: "a", text: "hi" });
  expect(response.headers.get("x-request-id")).toMatch(/^[0-9A-Z]{20}$/);
});

test("errors are problems with everything a caller decides by", async () => {
  const limited = await fetch(`${url}/v1/limited`);
  expect(limited.headers.get("retry-after")).toBe("2");
  expect(await problemOf(limited)).toMatchObject({
    type: "urn:skein:error:rate-limited",
    code: "RATE_LIMITED",
    status: 429,
    retryable: true,
    retryAfterMs: 1_200,
  });
  expect(await problemOf(await fetch(`${url}/v1/decided`))).toMatchObject({
    code: "CONFLICT",
    status: 409,
    state: "rolled_back",
  });
  expect(await problemOf(await fetch(`${url}/nowhere`))).toMatchObject({ code: "NOT_FOUND", status: 404 });
});

test("an error that is not ours shows nothing of itself", async () => {
  const response = await fetch(`${url}/v1/broken`);
  const text = await response.text();
  expect(response.status).toBe(500);
  expect(text).not.toContain("swordfish");
});

test("another method is 405 and names the right ones", async () => {
  const response = await fetch(`${url}/v1/things/a`, { method: "DELETE" });
  expect(response.headers.get("allow")).toBe("POST");
  expect(await problemOf(response)).toMatchObject({ code: "METHOD_NOT_ALLOWED", status: 405 });
  for (const method of ["OPTIONS", "TRACE", "PATCH"]) {
    expect((await fetch(`${url}/v1/things`, { method })).status).toBe(405);
  }
  const overridden = await fetch(`${url}/v1/things`, { method: "PUT", headers: { "x-http-method-override": "GET" } });
  expect(overridden.status).toBe(405);
});

const deep = `{"text":"a","more":${"[".repeat(100)}${"]".repeat(100)}}`;
const json = { "content-type": "application/json" };

test.each<[string, string | Uint8Array<ArrayBuffer>, Record<string, string>, number, string, string | undefined]>([
  ["empty", "", json, 400, "PARSE_ERROR", undefined],
  ["null", "null", json, 400, "INVALID", ""],
  ["a list", "[]", json, 400, "INVALID", ""],
  ["a string", '"x"', json, 400, "INVALID", ""],
  ["a number", "1", json, 400, "INVALID", ""],
  ["deep", deep, json, 400, "INVALID", ""],
  ["100 000 deep, short of the limit", "[".repeat(900), json, 400, "INVALID", ""],
  ["a BOM", '\ufeff{"text":"a"}', json, 400, "PARSE_ERROR", undefined],
  ["invalid UTF-8", new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d]), json, 400, "PARSE_ERROR", undefined],
  ["UTF-16", new Uint8Array(new Uint16Array([0x7b, 0x7d]).buffer), json, 400, "PARSE_ERROR", undefined],
  ["a number beyond doubles", '{"text":"a","more":{"count":1e400}}', json, 400, "INVALID", "more.count"],
  ["a missing field", "{}", json, 400, "INVALID", "text"],
  ["an unknown field", '{"text":"a","role":"owner"}', json, 400, "INVALID", "role"],
  ["a path field in the body", '{"text":"a","thing":"b"}', json, 400, "INVALID", "thing"],
  ["__proto__", '{"text":"a","__proto__":{"x":1}}', json, 400, "INVALID", "__proto__"],
  ["constructor", '{"text":"a","constructor":{"prototype":{"x":1}}}', json, 400, "INVALID", "constructor"],
  ["an operator for a string", '{"text":{"$ne":""}}', json, 400, "INVALID", "text"],
  ["a list for a string", '{"text":["a"]}', json, 400, "INVALID", "text"],
  ["a nested unknown field", '{"text":"a","more":{"count":1,"x":1}}', json, 400, "INVALID", "more.x"],
  ["too long a text", '{"text":"aaaaaaaaaaa"}', json, 400, "INVALID", "text"],
  [
    "a form",
    "text=a",
    { "content-type": "application/x-www-form-urlencoded" },
    415,
    "UNSUPPORTED_MEDIA_TYPE",
    undefined,
  ],
  ["no media type", '{"text":"a"}', { "content-type": "" }, 415, "UNSUPPORTED_MEDIA_TYPE", undefined],
  [
    "another charset",
    '{"text":"a"}',
    { "content-type": "application/json; charset=utf-16" },
    415,
    "UNSUPPORTED_MEDIA_TYPE",
    undefined,
  ],
  [
    "gzip",
    new Uint8Array(Bun.gzipSync('{"text":"a"}')),
    { ...json, "content-encoding": "gzip" },
    415,
    "UNSUPPORTED_MEDIA_TYPE",
    undefined,
  ],
  ["over the limit", `{"text":"${"a".repeat(1_000)}"}`, json, 413, "TOO_LARGE", undefined],
])("a body that is or has %s is refused", async (_, body, headers, status, code, path) => {
  const problem = await problemOf(await post(body, headers));
  expect(problem).toMatchObject({ status, code });
  if (path !== undefined) expect(problem.issues?.[0]?.path).toBe(path);
});

test("JSON cut off at every byte is refused without an echo", async () => {
  const whole = '{"text":"sesame","more":{"count":1}}';
  for (let length = 1; length < whole.length; length++) {
    const response = await post(whole.slice(0, length));
    const text = await response.text();
    expect(response.status).toBe(400);
    expect(text).not.toContain("sesame");
  }
});

test("ten thousand unknown fields make a short answer", async () => {
  const wide = JSON.stringify(Object.fromEntries(Array.from({ length: 80 }, (_, i) => [`k${i}`, 1])));
  const response = await post(wide);
  const text = await response.text();
  expect(response.status).toBe(400);
  expect(text.length).toBeLessThan(4_000);
});

test("a chunked body over the limit is cut although it names no length", async () => {
  const chunk = `${"a".repeat(400)}`;
  const chunks = Array.from({ length: 5 }, () => `190\r\n${chunk}\r\n`).join("");
  const head =
    "POST /v1/things/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
  const { status } = await rawHttp(server.port!, `${head}${chunks}0\r\n\r\n`);
  expect(status).toBe(413);
});

test.each<[string, string]>([
  ["two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}"],
  ["length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
  ["an unknown transfer encoding", "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
  ["a negative length", "Content-Length: -1\r\n\r\n{}"],
  ["a space before the colon", "Content-Length : 2\r\n\r\n{}"],
])("%s: refused or closed, never a 2xx or 5xx", async (_, rest) => {
  const head = `POST /v1/things/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n${rest}`;
  const { status } = await rawHttp(server.port!, head);
  expect(status === undefined || (status >= 400 && status < 500)).toBe(true);
});

test("two thousand headers, and one of 64 KiB: refused or answered, and the server lives", async () => {
  const many = Array.from({ length: 2_000 }, (_, i) => `x-${i}: 1\r\n`).join("");
  const long = `x-long: ${"a".repeat(64 * 1_024)}\r\n`;
  for (const headers of [many, long]) {
    const { status } = await rawHttp(
      server.port!,
      `GET /v1/things HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${headers}\r\n`,
    );
    expect(status === undefined || status < 500).toBe(true);
  }
  expect((await fetch(`${url}/v1/things`)).status).toBe(200);
});

test.each<[string, number, string | undefined]>([
  ["limit=20", 200, undefined],
  ["", 200, undefined],
  ["limit=0x10", 400, "limit"],
  ["limit=1e3", 400, "limit"],
  ["limit=1.5", 400, "limit"],
  ["limit=", 400, "limit"],
  ["limit=201", 400, "limit"],
  ["limit=99999999999999999999", 400, "limit"],
  ["limit=1&limit=2", 400, "limit"],
  ["before=7", 200, undefined],
  ["other=1", 400, "other"],
  ["__proto__=1", 400, "__proto__"],
  ["%ff=1", 400, undefined],
])("query %s", async (query, status, path) => {
  const response = await fetch(`${url}/v1/things?${query}`);
  expect(response.status).toBe(status);
  if (path) expect((await problemOf(response)).issues?.[0]?.path).toBe(path);
});

test.each([
  "/v1/things/%2e%2e",
  "/v1/things/a%00",
  "/v1/things/%2f",
  "/v1/things/%zz",
  "/v1/things/A",
  "/v1/things/a%7Bb",
])("path %s is refused", async (path) => {
  expect((await post('{"text":"a"}', json, path)).status).toBe(path === "/v1/things/%2e%2e" ? 404 : 400);
});
