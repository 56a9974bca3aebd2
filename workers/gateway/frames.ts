/**
 * JSON-RPC 2.0 in text frames: what a client's frame asks, and the text of what we answer. Frames out are joined from pieces
 * that are JSON already; `{"jsonrpc":"2.0","id":…` is always their beginning.
 *
 *   in    {"jsonrpc":"2.0","id":7,"method":"read","params":{…}}      or a list of 1..64 of them
 *   out   {"jsonrpc":"2.0","id":7,"result":{…}}                      a list when a list was asked
 *         {"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"…","data":{"code":"INVALID","retryable":false,"issues":[…]}}}
 *         {"jsonrpc":"2.0","method":"message","params":{…}}
 *
 * Requests without id (JSON-RPC's notifications) are refused: every call of ours has an outcome worth knowing.
 */

import { AppError, ERRORS, type ErrorBody, toErrorBody } from "../../lib/errors.ts";
import { invalid } from "../../lib/http/index.ts";

export type RequestId = number | string;

export interface RpcRequest {
  readonly id: RequestId;
  readonly method: string;
  readonly params: unknown;
}

/** An id is repeated in the answer, so it is bounded. */
const ID_CHARACTERS_MAX = 128;
/** JSON-RPC's number for a frame that is JSON and no request. */
const INVALID_REQUEST = -32_600;

/** One request of a frame. Throws INVALID that names the member. */
export function readRequest(value: unknown): RpcRequest {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid("", "must be a JSON-RPC request object");
  }
  for (const name in value) if (!MEMBERS.has(name)) throw invalid(name.slice(0, 64), "is not a known field");
  const { jsonrpc, id, method, params } = value as Record<string, unknown>;
  if (jsonrpc !== "2.0") throw invalid("jsonrpc", 'must be "2.0"');
  if (!isId(id)) throw invalid("id", `must be a number or a string of at most ${ID_CHARACTERS_MAX} characters`);
  if (typeof method !== "string") throw invalid("method", "must be a string");
  return { id, method, params: params === undefined ? {} : params };
}

const MEMBERS: ReadonlySet<string> = new Set(["jsonrpc", "id", "method", "params"]);

function isId(id: unknown): id is RequestId {
  // JSON reads 1e400 as Infinity, which it cannot write again.
  return typeof id === "number" ? Number.isFinite(id) : typeof id === "string" && id.length <= ID_CHARACTERS_MAX;
}

/** The id to answer a faulty request under, null when it has none. */
export function idOf(value: unknown): RequestId | null {
  const id = typeof value === "object" && value !== null ? (value as Record<string, unknown>).id : undefined;
  return isId(id) ? id : null;
}

/** `result` is JSON. */
export function resultFrame(id: RequestId, result: string): string {
  return `{"jsonrpc":"2.0","id":${typeof id === "number" ? id : JSON.stringify(id)},"result":${result}}`;
}

/** `isEnvelope`: the fault lies in the request around the params. */
export function errorFrame(id: RequestId | null, error: unknown, isEnvelope = false): string {
  const { detail, ...data }: ErrorBody = toErrorBody(error);
  const code = isEnvelope && data.code === "INVALID" ? INVALID_REQUEST : ERRORS[data.code].rpc;
  return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"error":${JSON.stringify({ code, message: detail, data })}}`;
}

/** What a gateway tells of the session itself; all else comes as ready frames of the chat. */
export type SessionNotification = "session.ready" | "session.resync" | "session.closing";

export function notificationFrame(method: SessionNotification, params: object): string {
  return `{"jsonrpc":"2.0","method":"${method}","params":${JSON.stringify(params)}}`;
}

/** The frame's JSON. Throws PARSE_ERROR. Depth needs no check: the parser is not recursive, and no schema looks deeper than it knows. */
export function parseFrame(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own message quotes the frame.
    throw new AppError("PARSE_ERROR", "The frame is not valid JSON");
  }
}
