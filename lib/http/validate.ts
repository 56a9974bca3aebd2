/**
 * Inputs against schemas: JSON bodies read and counted by ourselves, path, query and body checked as one object by the very
 * schema that the WebSocket uses, so both name a fault alike; and the OpenAPI description of all that, made of the same schema.
 *
 * Refused: other media types, any content encoding, bodies over the limit (counted as they arrive, for Content-Length may lie
 * or be absent), invalid UTF-8, a BOM, JSON nested deeper than 32, unknown fields, a field given twice in the query. Of a key
 * that a JSON object repeats the last one counts, and only what was parsed is passed on, so nobody behind us can disagree.
 */

import { toJsonSchema } from "@valibot/to-json-schema";
import type { Context } from "hono";
import { describeRoute, resolver } from "hono-openapi";
import * as v from "valibot";
import { AppError, type Issue } from "../errors.ts";

/** Bodies that carry one chat message or less (protocol.md: frame ≤ 64 KiB). */
export const CHAT_BODY_BYTES_MAX = 64 * 1_024;
/** Every other body. */
export const BODY_BYTES_MAX = 256 * 1_024;
/** Deeper than any of our schemas by far, and harmless to every parser. */
const DEPTH_MAX = 32;
/** A body that takes longer is a slow-loris; between two chunks the server's idle time-out watches. */
const BODY_TIMEOUT_MS = 10_000;
/** Faults named in one answer; a body could have thousands. */
const ISSUES_MAX = 20;
/** Of a field's name that the client made up. */
const PATH_CHARACTERS_MAX = 64;

/** A flat object whose unknown fields are refused: v.strictObject. */
export type InputSchema = v.GenericSchema & { readonly entries: v.ObjectEntries };

/** Throws INVALID with at most 20 issues unless `value` fits. */
export function validate<const S extends v.GenericSchema>(schema: S, value: unknown): v.InferOutput<S> {
  // valibot takes a list for an object without these fields.
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid("", "must be an object");
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const issues = result.issues.slice(0, ISSUES_MAX).map(toIssue);
  throw new AppError("INVALID", issues.map(({ path, message }) => `${path} ${message}`.trim()).join("; "), { issues });
}

/** INVALID with one issue. */
export function invalid(path: string, message: string): AppError {
  return new AppError("INVALID", `${path} ${message}`.trim(), { issues: [{ path, message }] });
}

function toIssue(issue: v.BaseIssue<unknown>): Issue {
  const path = (issue.path ?? [])
    .map(({ key }) => String(key))
    .join(".")
    .slice(0, PATH_CHARACTERS_MAX);
  return { path, message: messageOf(issue) };
}

/** Our schemas say it themselves; valibot's own messages repeat the input, so they are put in our words. */
function messageOf({ type, expected, received, message }: v.BaseIssue<unknown>): string {
  if (!message.startsWith("Invalid ")) return received === "undefined" ? `is required: ${message}` : message;
  if (type === "strict_object" && expected === "never") return "is not a known field";
  if (received === "undefined") return "is required";
  return `must be ${expected === "Object" ? "an object" : expected}`;
}

/** The JSON body. Throws UNSUPPORTED_MEDIA_TYPE, TOO_LARGE, PARSE_ERROR or INVALID. */
export async function readJson(request: Request, bytesMax: number): Promise<unknown> {
  return parseJson(await readJsonText(request, bytesMax));
}

/** The text of a body that says that it is JSON; it may be none. Throws UNSUPPORTED_MEDIA_TYPE, TOO_LARGE, PARSE_ERROR or INVALID. */
export async function readJsonText(request: Request, bytesMax: number): Promise<string> {
  const [mediaType, ...parameters] = (request.headers.get("content-type") ?? "").toLowerCase().split(";");
  const charset = parameters.find((parameter) => parameter.trim().startsWith("charset="));
  if (mediaType!.trim() !== "application/json" || (charset && !/^\s*charset="?utf-8"?\s*$/.test(charset))) {
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", "Content-Type: must be application/json in UTF-8");
  }
  const encoding = request.headers.get("content-encoding");
  if (encoding !== null && encoding.toLowerCase() !== "identity") {
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", "Content-Encoding: a body must not be compressed");
  }
  return decode(await readBytes(request, bytesMax));
}

async function readBytes(request: Request, bytesMax: number): Promise<Uint8Array> {
  const reader = request.body?.getReader();
  if (!reader) return new Uint8Array();
  const deadline = performance.now() + BODY_TIMEOUT_MS;
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > bytesMax) {
      await reader.cancel();
      throw new AppError("TOO_LARGE", `The body must be at most ${bytesMax} bytes`);
    }
    if (performance.now() > deadline) {
      await reader.cancel();
      throw invalid("", `the body did not arrive within ${BODY_TIMEOUT_MS} ms`);
    }
    chunks.push(value);
  }
  if (chunks.length === 1) return chunks[0]!;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new AppError("PARSE_ERROR", "The body is not valid UTF-8", { cause });
  }
}

/** Throws PARSE_ERROR when it is not JSON, INVALID when it is nested too deep. Neither repeats the text. */
export function parseJson(text: string): unknown {
  if (isDeeperThan(text, DEPTH_MAX)) throw invalid("", `must not be nested deeper than ${DEPTH_MAX}`);
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own message quotes the text.
    throw new AppError("PARSE_ERROR");
  }
}

/** Counts brackets outside strings; right for every text that is JSON. */
function isDeeperThan(text: string, depthMax: number): boolean {
  let depth = 0;
  let isString = false;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (isString) {
      if (unit === BACKSLASH) i++;
      else if (unit === QUOTE) isString = false;
    } else if (unit === QUOTE) isString = true;
    else if (unit === BRACKET || unit === BRACE) {
      depth += 1;
      if (depth > depthMax) return true;
    } else if (unit === BRACKET_END || unit === BRACE_END) depth -= 1;
  }
  return false;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const BRACKET = 0x5b;
const BRACKET_END = 0x5d;
const BRACE = 0x7b;
const BRACE_END = 0x7d;

/** Where the fields of an input come from: some from the path, the rest from the body, or of GET and DELETE from the query. */
export interface InputSource {
  readonly path: readonly string[];
  readonly bodyBytesMax?: number;
  /** A request without a body is one with an empty object: for calls whose fields are all optional. */
  readonly mayLackBody?: boolean;
}

/** Path, and query or body, as one object that fits `schema`. Throws what readJson and validate throw. */
export async function readInput<const S extends InputSchema>(
  c: Context,
  schema: S,
  { path, bodyBytesMax = BODY_BYTES_MAX, mayLackBody = false }: InputSource,
): Promise<v.InferOutput<S>> {
  const rest = !hasBody(c.req.method)
    ? readQuery(c, schema)
    : mayLackBody && lacksBody(c.req.raw)
      ? {}
      : await readJson(c.req.raw, bodyBytesMax);
  if (typeof rest !== "object" || rest === null || Array.isArray(rest)) throw invalid("", "must be an object");
  for (const name of path) if (Object.hasOwn(rest, name)) throw invalid(name, "is not a known field");
  const inPath = Object.entries(c.req.param()).map(([name, text]) => [name, asNumber(schema, name, text)]);
  return validate(schema, { ...rest, ...Object.fromEntries(inPath) });
}

function hasBody(method: string): boolean {
  return method === "POST" || method === "PUT" || method === "PATCH";
}

function lacksBody({ body, headers }: Request): boolean {
  return body === null || headers.get("content-length") === "0";
}

const WHOLE_NUMBER = /^-?\d{1,15}$/;

function readQuery(c: Context, schema: InputSchema): Record<string, unknown> {
  const query: Record<string, unknown> = Object.create(null);
  for (const [name, values] of Object.entries(c.req.queries())) {
    if (values.length > 1) throw invalid(name.slice(0, PATH_CHARACTERS_MAX), "must be given once");
    query[name] = asNumber(schema, name, values[0]!);
  }
  return query;
}

/** A text of path or query, as a number where the field is one. What is no number stays text, and is refused as that. */
function asNumber(schema: InputSchema, name: string, text: string): string | number {
  return isNumber(schema, name) && WHOLE_NUMBER.test(text) ? Number(text) : text;
}

function isNumber(schema: InputSchema, name: string): boolean {
  if (!Object.hasOwn(schema.entries, name)) return false;
  const entry = schema.entries[name]!;
  return ("wrapped" in entry ? (entry.wrapped as v.GenericSchema) : entry).type === "number";
}

// OpenAPI

const OPTIONAL_TYPES: ReadonlySet<string> = new Set(["optional", "exact_optional"]);

export interface RouteDescription {
  readonly summary: string;
  readonly input?: InputSchema;
  readonly path?: readonly string[];
  readonly mayLackBody?: boolean;
  /** Status -> what the reply holds; undefined: no body. */
  readonly replies: Readonly<Record<number, v.GenericSchema | undefined>>;
  readonly method: "get" | "post" | "put" | "patch" | "delete";
}

/** The description of a route for /openapi.json, as the middleware that hono-openapi finds. Checks in code have no JSON schema and are left out. */
export function describeInput(description: RouteDescription) {
  const { summary, input, path = [], mayLackBody = false, replies, method } = description;
  const entries = Object.entries(input?.entries ?? {});
  const isBody = hasBody(method.toUpperCase());
  const parameters = entries
    .filter(([name]) => !isBody || path.includes(name))
    .map(([name, entry]) => {
      const { $schema, ...schema } = toJsonSchema(entry as v.GenericSchema, JSON_SCHEMA);
      const isPath = path.includes(name);
      return { name, in: isPath ? "path" : "query", required: isPath || !OPTIONAL_TYPES.has(entry.type), schema };
    });
  const inBody = Object.fromEntries(entries.filter(([name]) => !path.includes(name)));
  const requestBody =
    isBody && Object.keys(inBody).length > 0
      ? {
          required: !mayLackBody,
          content: { "application/json": { schema: resolver(v.strictObject(inBody as v.ObjectEntries), JSON_SCHEMA) } },
        }
      : undefined;
  const responses = Object.fromEntries(
    Object.entries(replies).map(([status, reply]) => [
      status,
      {
        description: Number(status) < 300 ? "Done" : "Refused",
        ...(reply ? { content: { "application/json": { schema: resolver(reply, JSON_SCHEMA) } } } : {}),
      },
    ]),
  );
  return describeRoute({
    summary,
    parameters: parameters as never[],
    ...(requestBody ? { requestBody } : {}),
    responses: { ...responses, default: PROBLEM_RESPONSE },
  });
}

const JSON_SCHEMA = { errorMode: "ignore" } as const;

export const ProblemSchema = v.object({
  type: v.string(),
  title: v.string(),
  status: v.number(),
  detail: v.string(),
  code: v.string(),
  retryable: v.boolean(),
  retryAfterMs: v.optional(v.number()),
  issues: v.optional(v.array(v.object({ path: v.string(), message: v.string() }))),
  /** Of a CONFLICT: what the thing has become. */
  state: v.optional(v.string()),
});

const PROBLEM_RESPONSE = {
  description: "RFC 9457 problem",
  content: { "application/problem+json": { schema: resolver(ProblemSchema, JSON_SCHEMA) } },
};
