/**
 * What passes: who is typing, who is online, and what has reached this device. Nothing of it is worth keeping, so nothing of it waits
 * for a connection; what is still true is said again on the next one.
 */

import { ClientError } from "./error.ts";
import type { Method, Methods } from "./methods.ts";
import type { Message, PresenceState } from "./model.ts";
import type { TypingNotice } from "./wire.ts";

/** Said again this often while the user types: the server takes 6 s of silence for the end. */
const TYPING_EVERY_MS = 3_000;
/** The server's 6 s, and some for the way; it may die before it says that somebody stopped. */
const TYPING_OVER_MS = 9_000;
/** Messages that arrive within this are acknowledged together. */
const ACKNOWLEDGE_EVERY_MS = 1_000;
/** As many as one request takes. */
const USERS_PER_REQUEST = 100;

export interface PassingEvents {
  onTyping(notice: TypingNotice): void;
  onPresence(state: PresenceState): void;
}

export type Passing = ReturnType<typeof createPassing>;

export function createPassing(
  ask: <M extends Method>(method: M, params: Methods[M][0]) => Promise<Methods[M][1]>,
  isOpen: () => boolean,
  events: PassingEvents,
) {
  const watched = new Set<string>();
  /** conversation -> when it was said last that the user types there. */
  const said = new Map<string, number>();
  /** conversation and user -> what ends it. */
  const typists = new Map<string, ReturnType<typeof setTimeout>>();
  const arrived = new Map<string, number>();
  let acknowledging: ReturnType<typeof setTimeout> | undefined;

  /** Refused or lost: what is still true is said again. */
  function tell<M extends Method>(method: M, params: Methods[M][0], onAnswer: (result: Methods[M][1]) => void): void {
    ask(method, params).then(onAnswer, (error: unknown) => {
      if (!(error instanceof ClientError)) throw error;
    });
  }

  function subscribe(users: readonly string[]): void {
    for (let i = 0; i < users.length; i += USERS_PER_REQUEST) {
      tell("presence.subscribe", { users: users.slice(i, i + USERS_PER_REQUEST) }, ({ presence }) => {
        for (const state of presence) events.onPresence(state);
      });
    }
  }

  function stop(conversation: string, user: string): void {
    const key = `${conversation}\n${user}`;
    const timer = typists.get(key);
    if (timer === undefined) return;
    clearTimeout(timer);
    typists.delete(key);
    events.onTyping({ conversation, user, on: false });
  }

  function acknowledge(): void {
    acknowledging = undefined;
    if (!isOpen()) return;
    for (const [conversation, seq] of arrived) tell("delivered", { conversation, seq }, () => undefined);
    arrived.clear();
  }

  return {
    type(conversation: string, on: boolean): void {
      const last = said.get(conversation) ?? 0;
      if (!isOpen() || (on ? Date.now() - last < TYPING_EVERY_MS : last === 0)) return;
      if (on) said.set(conversation, Date.now());
      else said.delete(conversation);
      tell("typing", { conversation, on }, () => undefined);
    },
    /** The user's message is sent: whoever hears it knows that the typing is over. */
    sent: (conversation: string) => void said.delete(conversation),
    watch(users: readonly string[]): void {
      const fresh = users.filter((user) => !watched.has(user));
      for (const user of fresh) watched.add(user);
      if (isOpen()) subscribe(fresh);
    },
    unwatch(users: readonly string[]): void {
      const known = users.filter((user) => watched.delete(user));
      if (!isOpen()) return;
      for (let i = 0; i < known.length; i += USERS_PER_REQUEST) {
        tell("presence.unsubscribe", { users: known.slice(i, i + USERS_PER_REQUEST) }, () => undefined);
      }
    },
    onOpen(): void {
      said.clear();
      subscribe([...watched]);
    },
    onTyping({ conversation, user, on }: TypingNotice): void {
      const key = `${conversation}\n${user}`;
      const isKnown = typists.has(key);
      clearTimeout(typists.get(key));
      if (!on) {
        stop(conversation, user);
        return;
      }
      typists.set(
        key,
        setTimeout(() => stop(conversation, user), TYPING_OVER_MS),
      );
      if (!isKnown) events.onTyping({ conversation, user, on });
    },
    /** A message of somebody else's: its author types no more, and it has reached this device. */
    onMessage({ conversation, from, seq }: Message, isToBeAcknowledged: boolean): void {
      stop(conversation, from);
      if (!isToBeAcknowledged) return;
      arrived.set(conversation, Math.max(seq, arrived.get(conversation) ?? 0));
      acknowledging ??= setTimeout(acknowledge, ACKNOWLEDGE_EVERY_MS);
    },
    end(): void {
      clearTimeout(acknowledging);
      for (const timer of typists.values()) clearTimeout(timer);
      typists.clear();
    },
  };
}
