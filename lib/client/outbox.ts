/**
 * The app's own messages until their commit is known. Without a store a message is tried for as long as any request; with one until it
 * is committed, over reconnects and lives of the app, for as long as the server knows it again by its clientId.
 *
 *   add ─► waiting for the first session and what the store holds ─► asked ─► sent | failed
 */

import { ClientError } from "./error.ts";
import type { SendInput, SendReply } from "./methods.ts";
import type { Unsent } from "./store.ts";

/** The server takes a message that comes again for the same one within 24 h; past this it might be a second one. */
const KEPT_MS_MAX = 23 * 3_600_000;
/** Kept messages: what an app's storage bears, and more than anybody writes while offline. */
const KEPT_MAX = 1_000;

export interface OutboxParts {
  /** Commits it, over all repetitions within so many ms. */
  ask(input: SendInput, timeoutMs: number): Promise<SendReply>;
  /** Of a send that nothing keeps. */
  readonly timeoutMs: number;
  readonly isKept: boolean;
  onSent(input: SendInput, reply: SendReply): void;
  onFailed(input: SendInput, error: ClientError): void;
  /** What is to be kept has changed. */
  onChange(): void;
}

interface Waiting extends Unsent {
  /** What the app is told of it; nobody waits for one of a former life. */
  readonly outcome: PromiseWithResolvers<SendReply> | undefined;
  isAsked: boolean;
}

export interface Outbox {
  add(input: SendInput): Promise<SendReply>;
  /** Takes what a former life left, in front of what this one has added. */
  restore(unsent: readonly Unsent[]): void;
  /** There is a session; of a user whose messages those of the former life are, or not. */
  begin(isSameUser: boolean): void;
  /** In the order of the calls. */
  unsent(): Unsent[];
  /** The rest stays what it is: unsent. */
  end(error: ClientError): void;
}

export function createOutbox({ ask, timeoutMs, isKept, onSent, onFailed, onChange }: OutboxParts): Outbox {
  let waiting = new Set<Waiting>();
  // What is not kept has no former life to wait for.
  let isBegun = !isKept;
  let ended: ClientError | undefined;

  function dispatch(one: Waiting): void {
    one.isAsked = true;
    const leftMs = isKept ? one.at + KEPT_MS_MAX - Date.now() : timeoutMs;
    const reply =
      leftMs > 0
        ? ask(one.input, leftMs)
        : Promise.reject(new ClientError("UNKNOWN_OUTCOME", "too old to be sent again safely", "unknown"));
    reply.then(
      (result) => {
        remove(one);
        onSent(one.input, result);
        one.outcome?.resolve(result);
      },
      (error: ClientError) => {
        // Given up by us, not refused: it stays what it is.
        if (!ended) {
          remove(one);
          // Its former life may have had it committed.
          const isInDoubt = one.outcome === undefined && error.outcome === "failed";
          const told = isInDoubt ? new ClientError(error.code, error.message, "unknown", error.issues) : error;
          onFailed(one.input, told);
        }
        one.outcome?.reject(error);
      },
    );
  }

  function remove(one: Waiting): void {
    waiting.delete(one);
    onChange();
  }

  return {
    add(input) {
      if (ended) return Promise.reject(ended);
      if (isKept && waiting.size >= KEPT_MAX) {
        return Promise.reject(new ClientError("OVERLOADED", `${KEPT_MAX} messages are unsent`));
      }
      const one = { input, at: Date.now(), outcome: Promise.withResolvers<SendReply>(), isAsked: false };
      waiting.add(one);
      onChange();
      if (isBegun) dispatch(one);
      return one.outcome.promise;
    },
    restore(unsent) {
      const left = unsent.map(({ input, at }) => ({ input, at, outcome: undefined, isAsked: false }));
      waiting = new Set([...left, ...waiting]);
    },
    begin(isSameUser) {
      if (isBegun) return;
      isBegun = true;
      if (!isSameUser) for (const one of waiting) if (!one.outcome) waiting.delete(one);
      onChange();
      for (const one of waiting) dispatch(one);
    },
    unsent: () => [...waiting].map(({ input, at }) => ({ input, at })),
    end(error) {
      ended = error;
      for (const { isAsked, outcome } of waiting) if (!isAsked) outcome?.reject(error);
    },
  };
}
