/**
 * The operating errors of Skein: one class and one table. The table says for each code what HTTP and WebSocket clients see
 * and whether the same call may be sent again. Programmer errors are assertions (assert.ts); there is no third kind.
 *
 * A call ends as ok, failed, or unknown. UNKNOWN_OUTCOME is the third: the write may or may not have happened, and sending
 * it again under the same id is safe.
 */

export interface ErrorEntry {
  /** HTTP status of the RFC 9457 answer. */
  readonly status: number;
  /** Whether the same call, under the same id, may succeed later. */
  readonly retryable: boolean;
  /** What the client reads when the thrower gave no detail. */
  readonly title: string;
  /** The JSON-RPC error number on a WebSocket. */
  readonly rpc: number;
}

/** JSON-RPC reserves -32768..-32000; ours live in the server range -32099..-32000 by HTTP status family. */
export const ERRORS = {
  INVALID: { status: 400, retryable: false, title: "The request is not valid", rpc: -32602 },
  PARSE_ERROR: { status: 400, retryable: false, title: "The body is not valid JSON", rpc: -32700 },
  METHOD_NOT_FOUND: { status: 404, retryable: false, title: "There is no such method", rpc: -32601 },
  METHOD_NOT_ALLOWED: { status: 405, retryable: false, title: "This path has other methods", rpc: -32601 },
  UNAUTHENTICATED: { status: 401, retryable: false, title: "Credentials are missing or not valid", rpc: -32001 },
  FORBIDDEN: { status: 403, retryable: false, title: "The caller may not do this", rpc: -32003 },
  NOT_MEMBER: { status: 403, retryable: false, title: "Not a member of this conversation", rpc: -32004 },
  MUTED: { status: 403, retryable: false, title: "The member is muted in this conversation", rpc: -32005 },
  REFUSED: { status: 403, retryable: false, title: "The message was refused", rpc: -32007 },
  NOT_FOUND: { status: 404, retryable: false, title: "There is nothing here", rpc: -32006 },
  CONFLICT: { status: 409, retryable: false, title: "The id is taken by other content", rpc: -32009 },
  LEASE_LOST: { status: 409, retryable: false, title: "The lease is held by another", rpc: -32010 },
  ALREADY_FIRED: { status: 409, retryable: false, title: "It has fired already", rpc: -32011 },
  TOO_LARGE: { status: 413, retryable: false, title: "The request is too large", rpc: -32013 },
  UNSUPPORTED_MEDIA_TYPE: { status: 415, retryable: false, title: "The body must be application/json", rpc: -32015 },
  RATE_LIMITED: { status: 429, retryable: true, title: "Too many requests", rpc: -32029 },
  OVERLOADED: { status: 503, retryable: true, title: "The service is overloaded or not ready", rpc: -32050 },
  UNKNOWN_OUTCOME: {
    status: 503,
    retryable: true,
    title: "The outcome is not known; send the same request under the same id",
    rpc: -32051,
  },
  DEADLINE_EXCEEDED: { status: 504, retryable: true, title: "No answer within the deadline", rpc: -32054 },
  LAYER_VIOLATION: { status: 500, retryable: false, title: "A call against the layer rules", rpc: -32090 },
  INTERNAL: { status: 500, retryable: false, title: "An internal error", rpc: -32603 },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** One fault of an input: which field (dot path, "" for the whole) and what is wrong, naming the limit. */
export interface Issue {
  readonly path: string;
  readonly message: string;
}

export interface AppErrorOptions {
  readonly issues?: readonly Issue[];
  readonly retryAfterMs?: number;
  /** Of a CONFLICT: what the thing has become meanwhile. */
  readonly state?: string;
  readonly cause?: unknown;
}

export class AppError extends Error {
  override readonly name = "AppError";
  readonly code: ErrorCode;
  readonly issues: readonly Issue[] | undefined;
  readonly retryAfterMs: number | undefined;
  readonly state: string | undefined;

  constructor(code: ErrorCode, detail: string = ERRORS[code].title, options: AppErrorOptions = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.issues = options.issues;
    this.retryAfterMs = options.retryAfterMs;
    this.state = options.state;
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }
}

/** INVALID of one field; `message` says what is wrong with it, naming the limit. */
export function invalidField(path: string, message: string): AppError {
  return new AppError("INVALID", `${path} ${message}`, { issues: [{ path, message }] });
}

/** What the wire carries of an error, in HTTP, WebSocket and internal RPC alike. */
export interface ErrorBody {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  readonly issues?: readonly Issue[];
  readonly state?: string;
}

/** The public face of any thrown value. What is not an AppError becomes INTERNAL without its text: it may hold secrets. */
export function toErrorBody(error: unknown): ErrorBody {
  const known = error instanceof AppError ? error : new AppError("INTERNAL");
  return {
    code: known.code,
    detail: known.message,
    retryable: known.retryable,
    ...(known.retryAfterMs === undefined ? {} : { retryAfterMs: known.retryAfterMs }),
    ...(known.issues === undefined ? {} : { issues: known.issues }),
    ...(known.state === undefined ? {} : { state: known.state }),
  };
}

/** The inverse of toErrorBody, for internal RPC. An unknown code (a newer peer) becomes INTERNAL. */
export function fromErrorBody(body: ErrorBody): AppError {
  const code = body.code in ERRORS ? body.code : "INTERNAL";
  return new AppError(code, body.detail, {
    ...(body.issues === undefined ? {} : { issues: body.issues }),
    ...(body.retryAfterMs === undefined ? {} : { retryAfterMs: body.retryAfterMs }),
    ...(body.state === undefined ? {} : { state: body.state }),
  });
}
