/**
 * Requests and their answers over a connection that comes and goes. Every request of the chat is idempotent (a send by its
 * clientId), so what is unanswered when a socket is lost is sent again on the next one, in the original order; a retryable
 * refusal (RATE_LIMITED, OVERLOADED, UNKNOWN_OUTCOME) is repeated after the wait that the server names.
 *
 * Requests of one lane go one at a time: a lane is the sends to one conversation, and so they are committed in the order of
 * the calls, whatever is refused, lost or repeated in between.
 *
 *   ask ─► lane free? ─► outbox ─► in flight ─► answered
 *                          ▲           │ lost, or retryable refusal (after its wait)
 *                          └───────────┘
 */

import { askedMs, backoffMs } from "./backoff.ts";
import { ClientError } from "./error.ts";
import type { Method, Methods } from "./methods.ts";
import type { Answer } from "./wire.ts";

/** Half of what the server allows per connection (128): it counts requests until it has answered, we until we hear it. */
const IN_FLIGHT_MAX = 64;
/** Requests that wait for their turn or for a connection. An app that asks more has lost its connection for too long. */
const WAITING_MAX = 10_000;
const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 5_000;
/** The largest frame a server takes unless it says otherwise; a larger one would cost the connection (1009), again and again. */
const FRAME_BYTES_MAX = 64 * 1024;

interface Pending {
  readonly id: number;
  readonly frame: string;
  readonly lane: string | undefined;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: ClientError) => void;
  readonly deadline: ReturnType<typeof setTimeout>;
  retry: ReturnType<typeof setTimeout> | undefined;
  refusals: number;
  /** Whether any copy of it has left: from then on giving up means that the outcome is unknown. */
  wasSent: boolean;
  /** Whether a copy was never answered: it may have been executed, whatever a later one is told. */
  isInDoubt: boolean;
  isOver: boolean;
}

export interface Requests {
  /** Rejects with ClientError; `outcome` unknown when the deadline passed after it had been sent. */
  ask<M extends Method>(method: M, params: Methods[M][0], options: AskOptions): Promise<Methods[M][1]>;
  onOpen(limits: Readonly<Record<string, number>>): void;
  onAnswer(answer: Answer): void;
  onDown(): void;
  end(error: ClientError): void;
}

export interface AskOptions {
  readonly timeoutMs: number;
  readonly lane?: string;
}

export function createRequests(send: (frame: string) => boolean): Requests {
  /** All that are not over, in the order of the calls; some of them wait for their retry only. */
  const open = new Set<Pending>();
  const outbox: Pending[] = [];
  const inFlight = new Map<number, Pending>();
  /** Lanes in use -> those that wait behind the one under way. */
  const lanes = new Map<string, Pending[]>();
  let lastId = 0;
  let frameBytesMax = FRAME_BYTES_MAX;
  let ended: ClientError | undefined;

  function pump(): void {
    while (outbox.length > 0 && inFlight.size < IN_FLIGHT_MAX) {
      const pending = outbox[0]!;
      if (!pending.isOver) {
        if (!send(pending.frame)) return;
        pending.wasSent = true;
        inFlight.set(pending.id, pending);
      }
      outbox.shift();
    }
  }

  function finish(pending: Pending): void {
    close(pending);
    inFlight.delete(pending.id);
    if (pending.lane !== undefined) releaseLane(pending.lane);
    pump();
  }

  function close(pending: Pending): void {
    pending.isOver = true;
    open.delete(pending);
    clearTimeout(pending.deadline);
    clearTimeout(pending.retry);
  }

  function releaseLane(lane: string): void {
    const waiting = lanes.get(lane);
    let next = waiting?.shift();
    while (next?.isOver) next = waiting?.shift();
    if (next) outbox.push(next);
    else lanes.delete(lane);
  }

  function giveUp(pending: Pending, error: ClientError): void {
    if (pending.isOver) return;
    // One that still waits in its lane does not hold it.
    const waiting = pending.lane === undefined ? undefined : lanes.get(pending.lane);
    const place = waiting?.indexOf(pending) ?? -1;
    if (place >= 0) {
      waiting?.splice(place, 1);
      close(pending);
    } else finish(pending);
    pending.reject(error);
  }

  function expired(pending: Pending): void {
    const error = pending.wasSent
      ? new ClientError("UNKNOWN_OUTCOME", "no answer within the deadline; send again under the same id", "unknown")
      : new ClientError("DEADLINE_EXCEEDED", "not sent within the deadline: there was no connection", "failed");
    giveUp(pending, error);
  }

  function repeat(pending: Pending, retryAfterMs: number | undefined): void {
    inFlight.delete(pending.id);
    const waitMs = Math.max(askedMs(retryAfterMs ?? 0), backoffMs(pending.refusals, RETRY_FIRST_MS, RETRY_MAX_MS));
    pending.refusals += 1;
    pending.retry = setTimeout(() => {
      outbox.push(pending);
      pump();
    }, waitMs);
    pump();
  }

  return {
    ask(method, params, { timeoutMs, lane }) {
      return new Promise((resolve, reject) => {
        if (ended) return reject(ended);
        if (open.size >= WAITING_MAX) return reject(new ClientError("OVERLOADED", `${WAITING_MAX} requests wait`));
        lastId += 1;
        const id = lastId;
        let frame: string;
        try {
          frame = JSON.stringify({ jsonrpc: "2.0", id, method, params });
        } catch (error) {
          return reject(new ClientError("INVALID", `params are not JSON: ${error}`));
        }
        if (frame.length * 3 > frameBytesMax && new TextEncoder().encode(frame).length > frameBytesMax) {
          return reject(new ClientError("TOO_LARGE", `the request is larger than ${frameBytesMax} bytes`));
        }
        const pending: Pending = {
          id,
          frame,
          lane,
          resolve: resolve as (result: unknown) => void,
          reject,
          deadline: setTimeout(() => expired(pending), timeoutMs),
          retry: undefined,
          refusals: 0,
          wasSent: false,
          isInDoubt: false,
          isOver: false,
        };
        open.add(pending);
        const waiting = lane === undefined ? undefined : lanes.get(lane);
        if (waiting) return void waiting.push(pending);
        if (lane !== undefined) lanes.set(lane, []);
        outbox.push(pending);
        pump();
      });
    },
    onOpen(limits) {
      frameBytesMax = limits.frameBytes ?? FRAME_BYTES_MAX;
      pump();
    },
    onAnswer({ id, result, error }) {
      const pending = inFlight.get(id as number);
      // Not ours any more: its deadline has passed, or it was asked again on this socket.
      if (!pending) return;
      if (!error) {
        finish(pending);
        pending.resolve(result);
        return;
      }
      const { code = "INTERNAL", retryable = false, retryAfterMs, issues } = error.data ?? {};
      pending.isInDoubt ||= code === "UNKNOWN_OUTCOME";
      if (retryable) return repeat(pending, retryAfterMs);
      finish(pending);
      pending.reject(new ClientError(code, error.message, pending.isInDoubt ? "unknown" : "failed", issues));
    },
    onDown() {
      for (const pending of inFlight.values()) pending.isInDoubt = true;
      outbox.unshift(...inFlight.values());
      inFlight.clear();
    },
    end(error) {
      ended = error;
      for (const pending of [...open]) {
        giveUp(pending, pending.wasSent ? new ClientError(error.code, error.message, "unknown") : error);
      }
    },
  };
}
