/**
 * What a caller may conclude from a Redis error: whether the command was executed. Retry policy follows from this alone.
 *
 *   failed    not executed: topology, capacity or a server that is loading. Retry with back-off.
 *   unknown   the connection died, it timed out or was killed with the command under way. Retry under the same id only.
 *   bug       a script broke off; its earlier writes stand. Never retry blindly: alarm.
 */

import { AppError } from "../errors.ts";

export type RedisOutcome = "failed" | "unknown" | "bug";

/** Redis replies before executing anything. Inside a script the capacity errors arise at its first write only. */
const NOT_EXECUTED =
  /^(MOVED|ASK|TRYAGAIN|CLUSTERDOWN|CROSSSLOT|NOSCRIPT|LOADING|READONLY|MASTERDOWN|MISCONF|OOM|NOREPLICAS|BUSY|NOPERM|NOAUTH|WRONGPASS|UNBLOCKED|NOGROUP|ERR max number of clients)/;

/**
 * ioredis refused the command because the connection was not up. Its "Connection is closed." is not here: ioredis says that
 * of commands under way, too.
 */
const NOT_SENT = /enableOfflineQueue|isn't writeable|ECONNREFUSED|ENOTFOUND/;

/** Redis kills only scripts that have not written, but says so to the one who killed it, not to the caller. */
const KILLED = /Script killed by user/;

export function outcomeOf(error: unknown): RedisOutcome {
  const { name, message } = error as Error;
  if (name === "ReplyError" && KILLED.test(message)) return "unknown";
  if (name === "ReplyError") return NOT_EXECUTED.test(message) ? "failed" : "bug";
  return NOT_SENT.test(message) ? "failed" : "unknown";
}

/** The error a client of ours sees for a Redis error that retries did not heal. */
export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  switch (outcomeOf(error)) {
    case "failed":
      return new AppError("OVERLOADED", "The store is not ready", { retryAfterMs: 500, cause: error });
    case "unknown":
      return new AppError("UNKNOWN_OUTCOME", undefined, { retryAfterMs: 500, cause: error });
    case "bug":
      return new AppError("INTERNAL", undefined, { cause: error });
  }
}
