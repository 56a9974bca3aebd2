/**
 * What a message looks like now. Entries never change; what edits, a recall and reactions made of a message lies beside it in
 * parts, written by the commit of the entry that changed them, first in Redis and, after that entry, in the archive:
 *
 *   content     <as of seq> <edited ms> <recalled ms> <body JSON>          0: never
 *   reactions   <as of seq> [{"emoji":"👍","count":2,"users":["ann","bob"]}]
 *   by <user>   "👍","🎉"       what the user has on it, for the next change only
 *
 * A recalled message is its place and its author: no body, no mentions, no reactions. lib/client folds the entries that it
 * receives to the same bytes.
 */

import type { Entry, Message, Reaction } from "./protocol.ts";

export type FoldedPart = "content" | "reactions";
export type Parts = Readonly<Partial<Record<string, string>>>;

/** Both, in the order in which they are read. */
export const FOLDED_PARTS: readonly FoldedPart[] = ["content", "reactions"];

/** The part that says what one user has on a message. */
export const ownPart = (user: string) => `by ${user}`;

const CONTENT = /^\d+ (\d+) (\d+) (.*)$/s;

/** The message of a record as its parts have it. */
export function foldedMessage(record: string, parts: Parts = {}): Message {
  const message = JSON.parse(record) as Message;
  const { content, reactions } = parts;
  if (!content && !reactions) return message;
  const [, editedAt = "0", recalledAt = "0", body] = CONTENT.exec(content ?? "") ?? [];
  if (recalledAt !== "0") return recalled(message, Number(recalledAt));
  const found = reactions ? (JSON.parse(reactions.slice(reactions.indexOf(" ") + 1)) as Reaction[]) : [];
  return {
    ...message,
    ...(body === undefined ? {} : { body: JSON.parse(body) }),
    ...(editedAt === "0" ? {} : { editedAt: Number(editedAt) }),
    ...(found.length === 0 ? {} : { reactions: found }),
  };
}

/** A recalled message's entry without what was taken back: who was away must not receive it any more. */
export function withoutRecalled(entry: Entry, { content }: Parts = {}): Entry {
  const recalledAt = CONTENT.exec(content ?? "")?.[2] ?? "0";
  if (entry.kind !== "message" || recalledAt === "0") return entry;
  return { ...entry, message: recalled(entry.message, Number(recalledAt)) };
}

function recalled({ mentions: _, ...message }: Message, recalledAt: number): Message {
  return { ...message, body: {}, recalledAt };
}

/** Of an event with an entry. Of a reaction also all of them on the message, and all of the user's own. */
export interface EntryEvent {
  readonly entry: Entry;
  readonly reactions?: readonly Reaction[] | undefined;
  readonly own?: readonly string[] | undefined;
}

/** The parts of its target that an event of an edit, a recall or a reaction sets; null removes one. */
export function partsOf({ entry, reactions = [], own = [] }: EntryEvent): Record<string, string | null> | undefined {
  if (entry.kind === "edit") return { content: `${entry.seq} ${entry.at} 0 ${JSON.stringify(entry.body)}` };
  if (entry.kind === "recall") return { content: `${entry.seq} 0 ${entry.at} {}`, reactions: null };
  if (entry.kind !== "reaction") return undefined;
  return {
    reactions: `${entry.seq} ${JSON.stringify(reactions)}`,
    [ownPart(entry.by)]: own.map((emoji) => JSON.stringify(emoji)).join(","),
  };
}
