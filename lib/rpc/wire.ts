/**
 * What crosses the wire, in one place for both ends.
 *
 *   POST /rpc/<service>/<method>
 *     authorization: Bearer <token>     skein-deadline-ms: <what is left of the deadline>     traceparent
 *
 *   one call   input             200 output                    4xx/5xx ErrorBody
 *   a batch    [input, …]        200 [{"ok": output} | {"error": ErrorBody}, …]
 *
 * An answer with `skein-refused` says that nothing was executed, and why; the caller may send the calls elsewhere.
 */

import type { ErrorBody } from "../errors.ts";

export const DEADLINE_HEADER = "skein-deadline-ms";
export const REFUSED_HEADER = "skein-refused";
export const TRACE_HEADER = "traceparent";

/** Calls per batch request: beyond it a request gains nothing and its last answer waits for its first. */
export const BATCH_CALLS_MAX = 256;
/** JSON of a batch in UTF-16 units, one call at least. */
export const BATCH_LENGTH_MAX = 1024 * 1024;

/** `draining`: this process stops. `expired`: the deadline passed before the call began. `denied`: token or layer table. */
export type Refusal = "draining" | "overloaded" | "expired" | "denied" | "unreadable";

export type BatchItem = { readonly ok: unknown } | { readonly error: ErrorBody };
