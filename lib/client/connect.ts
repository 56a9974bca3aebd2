/**
 * The client, put together:
 *
 *   app ──send──► outbox ──┐                        ┌──► arrivals ──► timelines ──► events ──► app
 *   app ──call──► calls ───┴─► requests ◄─► socket ─┘                 passing ────────┘
 *                                                store: cursors of timelines, unsent of outbox
 */

import { createArrivals, messageEntry, tellEntry } from "./arrivals.ts";
import { createCalls } from "./calls.ts";
import type { Client, ConnectOptions } from "./client.ts";
import { ClientError } from "./error.ts";
import { createEvents } from "./events.ts";
import type { Method, Methods, ScheduledReply, SendReply } from "./methods.ts";
import type { Entry, Message } from "./model.ts";
import { createOutbox } from "./outbox.ts";
import { createPassing } from "./passing.ts";
import { createRequests } from "./requests.ts";
import { openSocket } from "./socket.ts";
import { createKeeper, type Kept, PLACES_EVERY_MS } from "./store.ts";
import { createTimelines } from "./timeline.ts";
import type { Answer, Session } from "./wire.ts";

/** Long enough to outlive a server's restart; then the outcome is unknown and the app decides. */
const TIMEOUT_MS = 30_000;

type SendParams = Methods["message.send"][0];

/** Connects at once, and again whenever the connection is lost, until close() or a final refusal. */
export function connect(options: ConnectOptions): Client {
  const { store, timeoutMs = TIMEOUT_MS } = options;
  const events = createEvents();
  /** What was kept; until the first session, whose user may not be the one that it is of. */
  let kept: Kept | undefined;
  /** What is kept at the end, when the parts have let go of it. */
  let last: Kept | undefined;
  let user = "";
  const session = Promise.withResolvers<Session>();
  // Nobody has to wait for it.
  session.promise.catch(() => undefined);

  const requests = createRequests((frame) => socket.send(frame));
  const request = <M extends Method>(method: M, params: Methods[M][0]): Promise<Methods[M][1]> =>
    method === "message.send" ? commit(params as SendParams, timeoutMs) : requests.ask(method, params, { timeoutMs });
  const passing = createPassing(request, () => socket.isOpen(), {
    onTyping: (notice) => events.emit("typing", notice),
    onPresence: (state) => events.emit("presence", state),
  });
  const timelines = createTimelines((cursors) => request("sync", { cursors }), {
    onEntry: handOn,
    onHidden: (notice) => events.emit("hidden", notice),
    onRead: (notice) => events.emit("read", { ...notice, user }),
    onResync: (notice) => events.emit("resync", notice),
  });
  const outbox = createOutbox({
    // Not put off, so the answer is its place.
    ask: (input, withinMs) => commit(input, withinMs) as Promise<SendReply>,
    timeoutMs,
    isKept: store !== undefined,
    onSent: (input, reply) => events.emit("sent", { input, reply }),
    onFailed: (input, error) => events.emit("failed", { input, error }),
    onChange: () => keeper?.changed(0),
  });
  const keeper = store && createKeeper({ store, restore, snapshot });
  const arrivals = createArrivals({ timelines, passing, events, user: () => user });

  function restore(found: Kept | undefined): void {
    kept = found;
    outbox.restore(found?.unsent ?? []);
  }

  function snapshot(): Kept {
    if (last) return last;
    const unsent = outbox.unsent();
    return user === "" && kept ? { ...kept, unsent } : { user, cursors: timelines.cursors(), unsent };
  }

  function handOn(conversation: string, entry: Entry): void {
    keeper?.changed(PLACES_EVERY_MS);
    if (entry.kind === "message") {
      const isForeign = entry.message.from !== user;
      passing.onMessage(entry.message, isForeign && options.acknowledge === true);
    }
    tellEntry(events, conversation, entry);
  }

  /** Sends to one conversation go one after the other. */
  async function commit(input: SendParams, withinMs: number): Promise<SendReply | ScheduledReply> {
    const { conversation } = input;
    // The server tells every connection of the sender but this one.
    const reply = await requests
      .ask("message.send", input, { timeoutMs: withinMs, lane: conversation })
      .catch((error: ClientError) => {
        if (error.outcome === "unknown") timelines.doubt(conversation);
        throw error;
      });
    if ("seq" in reply) timelines.live(conversation, messageEntry(committed(input, reply, user)));
    return reply;
  }

  function opened(now: Session): void {
    if (user !== "" && user !== now.user) {
      // What waits here is not that user's.
      socket.close();
      ended(new ClientError("CONFLICT", `the token is of ${now.user}, the client is of ${user}`));
      return;
    }
    const isFirst = user === "";
    user = now.user;
    const isSameUser = !kept || kept.user === "" || kept.user === user;
    if (isFirst) {
      for (const cursor of (isSameUser && kept?.cursors) || []) timelines.follow(cursor);
      for (const cursor of options.cursors ?? []) timelines.follow(cursor);
    }
    session.resolve(now);
    events.emit("online", { session: now });
    requests.onOpen(now.limits);
    timelines.catchUpAll();
    passing.onOpen();
    outbox.begin(isSameUser);
  }

  function end(error: ClientError): void {
    // Without a session there is nothing yet that the parts will let go of, and what was kept may not be loaded.
    if (user !== "") last ??= snapshot();
    keeper?.flush();
    outbox.end(error);
    requests.end(error);
    timelines.end();
    passing.end();
    session.reject(error);
  }

  function ended(error: ClientError): void {
    end(error);
    events.emit("ended", { error });
  }

  const socket = openSocket(
    { ...options, ready: keeper?.ready },
    {
      onOpen: opened,
      onAnswer: (answer: Answer) => requests.onAnswer(answer),
      onNotification: arrivals,
      onClosing: (notice) => events.emit("closing", notice),
      onDown(reason) {
        requests.onDown();
        events.emit("offline", { reason });
      },
      onEnd: ended,
    },
  );

  return {
    on: events.on,
    ready: () => session.promise,
    ...createCalls({ events, request, outbox, passing, timelines, user: () => user }),
    close() {
      socket.close();
      end(new ClientError("CLOSED", "the client was closed"));
    },
  };
}

/** The message as everybody else hears of it. */
function committed(input: SendParams, { seq, id, sentAt }: SendReply, from: string): Message {
  const { conversation, type = "text", body, replyTo, mentions } = input;
  return {
    ...{ seq, id, conversation, from, type, body, sentAt },
    ...(replyTo === undefined ? {} : { replyTo }),
    ...(mentions === undefined ? {} : { mentions }),
  };
}
