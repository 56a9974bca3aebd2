/**
 * The review of what users are about to say, where somebody outside decides on it (the before-send hook): it may pass, pass with
 * another body, or be refused. Messages of one sender in one conversation are judged side by side and committed in the order in
 * which they came.
 *
 *   send ─► ask ─────────► turn of this sender here ─► commit
 *              └ refused ─► known already? its repetition : REFUSED
 */

import { AppError } from "../errors.ts";
import type { Body } from "./protocol.ts";

/** What is asked about. */
export interface Draft {
  readonly action: "send" | "edit";
  readonly by: string;
  readonly conversation: string;
  /** The same for each try: of a send its clientId, of an edit a new id. */
  readonly id: string;
  readonly body: Body;
  /** Of a send. */
  readonly type?: string;
  readonly replyTo?: number | undefined;
  readonly mentions?: readonly string[] | undefined;
  /** Of an edit: the message. */
  readonly seq?: number;
}

export type Verdict =
  | { readonly action: "allow" }
  | { readonly action: "replace"; readonly body: Body }
  /** `reason` is shown to the sender. */
  | { readonly action: "refuse"; readonly reason: string };

/** Rejects with a retryable AppError when there is no verdict and nothing may pass without. */
export type Judge = (draft: Draft) => Promise<Verdict>;

export interface Review {
  /**
   * Resolves with what `commit` made of the body that may pass. REFUSED, unless `isKnown` finds that it passed before: then what is
   * repeated is answered as a repetition.
   */
  pass<T>(draft: Draft, commit: (body: Body) => Promise<T>, isKnown?: () => Promise<boolean>): Promise<T>;
}

/** Without a judge all passes, at once. */
export function createReview(judge: Judge | undefined): Review {
  if (judge === undefined) return { pass: ({ body }, commit) => commit(body) };
  /** By sender and conversation: settles when the last one that came has been handed to its commit, or will not be. */
  const turns = new Map<string, Promise<void>>();

  async function bodyOf(draft: Draft, isKnown: () => Promise<boolean>): Promise<Body> {
    try {
      const verdict = await judge!(draft);
      if (verdict.action === "refuse") throw new AppError("REFUSED", verdict.reason);
      return verdict.action === "replace" ? verdict.body : draft.body;
    } catch (error) {
      if (await isKnown()) return draft.body;
      throw error;
    }
  }

  return {
    async pass(draft, commit, isKnown = async () => false) {
      const place = `${draft.by}/${draft.conversation}`;
      const before = turns.get(place);
      const { promise: turn, resolve: end } = Promise.withResolvers<void>();
      turns.set(place, turn);
      try {
        // Asked before its turn: a conversation costs one question's time, not one per message that waits.
        const judged = bodyOf(draft, isKnown);
        await Promise.allSettled([judged, before]);
        const body = await judged;
        const committed = commit(body);
        end();
        return await committed;
      } finally {
        end();
        if (turns.get(place) === turn) turns.delete(place);
      }
    },
  };
}
