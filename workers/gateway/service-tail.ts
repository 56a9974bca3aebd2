/**
 * Reading along over HTTP: server-sent events, one CloudEvent each, of every message of a topic. There is no group: nothing is acked and
 * nothing comes again. Each event's id is a cursor; a client that reconnects with it (Last-Event-ID, as browsers do by themselves, or
 * `after`) goes on exactly there.
 *
 *   retry: 2000                what browsers wait before they reconnect
 *   id: <cursor>               of the beginning, so that a client that was cut off before the first event loses nothing either
 *
 *   id: <cursor>
 *   data: {"specversion":"1.0",…}
 *
 *   event: gap                 first of all, when entries behind the cursor may have been trimmed meanwhile
 *   data: {}
 *
 *   : still here               every 15 s of silence
 *
 * Bounded: 64 tails per gateway, one read-ahead of 256 messages each. A client that takes nothing for 30 s is let go.
 */

import type { Context } from "hono";
import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import type { AppEnv } from "../../lib/http/index.ts";
import {
  cloudEventOf,
  InvalidMessage,
  type Queue,
  type StartPoint,
  type Tail,
  type Tailed,
} from "../../lib/mq/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import { createService, type Service } from "../../lib/service.ts";
import { assertMayRead, Name } from "./service-inputs.ts";
import { consumer, type ServiceRoute, serviceRoute } from "./service-route.ts";

/** Each holds a connection to Redis and a socket. */
const TAILS_MAX = 64;
const RETRY_AFTER_MS = 5_000;
/** Proxies cut what is silent for 30 to 60 s. */
const HEARTBEAT_MS = 15_000;
/** Longer without a byte taken: the client is gone, or as good as gone. */
const SLOW_MS = 30_000;
/** The server's own: it ends a socket that takes nothing at all. */
const IDLE_S = 60;
/** And once we gave a slow client up. */
const ENDING_IDLE_S = 2;
const PATIENCE: Patience = { heartbeatMs: HEARTBEAT_MS, slowMs: SLOW_MS };
/** Events written at a time. */
const BATCH_MAX = 64;
/** A cursor holds some 11 characters per partition. */
const CURSOR_CHARACTERS_MAX = 16_384;

const TailParams = v.strictObject({
  topic: Name,
  after: v.optional(
    v.pipe(v.string(), v.maxLength(CURSOR_CHARACTERS_MAX, `must be at most ${CURSOR_CHARACTERS_MAX} characters`)),
    "latest",
  ),
});

/** For tests, which have less. */
interface Patience {
  readonly heartbeatMs: number;
  readonly slowMs: number;
}

export interface Tails {
  readonly routes: readonly ServiceRoute[];
  /** Ends them when the gateway stops; clients go on elsewhere with their cursors. */
  readonly service: Service;
}

export function createTails(queue: Queue, log: Log, patience: Patience = PATIENCE): Tails {
  const stopping = new AbortController();
  let open = 0;

  async function answer(c: Context<AppEnv>, name: string, after: string): Promise<Response> {
    assertMayRead(name);
    const topic = await queue.catalog.topicOf(name);
    if (stopping.signal.aborted) throw new AppError("OVERLOADED", "This gateway is stopping", { retryAfterMs: 1_000 });
    if (open >= TAILS_MAX) {
      throw new AppError("RATE_LIMITED", `At most ${TAILS_MAX} tails at a time`, { retryAfterMs: RETRY_AFTER_MS });
    }
    open += 1;
    const tail = await queue.tail(topic, readAfter(c.req.header("last-event-id") || after)).catch((error: unknown) => {
      open -= 1;
      throw error;
    });
    const close = () => {
      open -= 1;
      tail.close().catch((error: unknown) => log.debug({ topic: name, error }, "a tail could not be closed"));
    };
    c.env.idleTimeout?.(IDLE_S);
    const body = streamOf({
      tail,
      patience,
      signal: AbortSignal.any([c.req.raw.signal, stopping.signal]),
      close,
      onSlow: () => c.env.idleTimeout?.(ENDING_IDLE_S),
    });
    return new Response(body, {
      headers: { "content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no" },
    });
  }

  return {
    routes: [
      serviceRoute(
        "get",
        "/v1/topics/:topic/tail",
        {
          summary:
            "Read along: server-sent events, one CloudEvent each; after: first, latest, Unix ms, or an event's id",
          scopes: consumer,
          input: TailParams,
          replies: { 200: undefined },
        },
        ({ c, params: { topic, after } }) => answer(c, topic, after),
      ),
    ],
    service: createService(
      "tails",
      async () => undefined,
      async () => stopping.abort(),
    ),
  };
}

function readAfter(text: string): StartPoint | { readonly cursor: string } {
  if (text === "first" || text === "latest") return text;
  return /^\d{1,15}$/.test(text) ? { time: Number(text) } : { cursor: text };
}

interface StreamParts {
  readonly tail: Tail;
  readonly patience: Patience;
  readonly signal: AbortSignal;
  /** Gives up what the tail holds; called once. */
  readonly close: () => void;
  readonly onSlow: () => void;
}

/** Pulled by the socket: while the client takes nothing, nothing is read for it. */
function streamOf({ tail, patience, signal, close, onSlow }: StreamParts): ReadableStream<Uint8Array> {
  const { heartbeatMs, slowMs } = patience;
  const encoder = new TextEncoder();
  let slow: ReturnType<typeof setTimeout> | undefined;
  let isEnded = false;
  let hasBegun = false;
  const end = () => {
    if (isEnded) return;
    isEnded = true;
    clearTimeout(slow);
    close();
  };
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      clearTimeout(slow);
      let text = hasBegun ? "" : beginning(tail);
      hasBegun = true;
      if (text === "")
        text = (await tail.next(BATCH_MAX, heartbeatMs, signal)).map(eventText).join("") || ": still here\n\n";
      if (isEnded) return;
      if (signal.aborted) {
        end();
        controller.close();
        return;
      }
      slow = setTimeout(() => {
        end();
        controller.close();
        onSlow();
      }, slowMs);
      controller.enqueue(encoder.encode(text));
    },
    cancel: end,
  });
}

function beginning({ cursor, hasGap }: Tail): string {
  return `retry: 2000\nid: ${cursor}\n\n${hasGap ? "event: gap\ndata: {}\n\n" : ""}`;
}

function eventText({ message, cursor }: Tailed): string {
  try {
    // White space between the publisher's tokens may hold line breaks; a client puts the lines together again.
    const lines = cloudEventOf(message).split(/\r\n|\r|\n/);
    return `id: ${cursor}\n${lines.map((line) => `data: ${line}\n`).join("")}\n`;
  } catch (error) {
    // An entry that is no message: nothing to show, and the place behind it is kept.
    if (error instanceof InvalidMessage) return `id: ${cursor}\n\n`;
    throw error;
  }
}
