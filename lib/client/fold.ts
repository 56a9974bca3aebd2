/**
 * What later entries make of a message, as the server's history shows it: for apps that hold messages and follow `entry`. The
 * same bytes come out, in JSON, whether a message was folded here or there.
 */

import type { Entry, Message, Reaction } from "./model.ts";

/** Users whom the server names with a kind of reaction. */
const REACTION_USERS_MAX = 10;

/**
 * The message as it is after the entry; unchanged when the entry is not about it. Entries must come by seq. A message that has some of
 * them in it already (of `history`) ends right too, unless one reaction has more users than the server names.
 */
export function fold(message: Message, entry: Entry): Message {
  if (!("target" in entry) || entry.target !== message.seq || message.recalledAt !== undefined) return message;
  const { editedAt, reactions = [], ...bare } = message;
  switch (entry.kind) {
    case "recall": {
      const { mentions: _, ...rest } = bare;
      return { ...rest, body: {}, recalledAt: entry.at };
    }
    case "edit":
      return assemble({ ...bare, body: entry.body }, entry.at, reactions);
    case "reaction":
      return assemble(bare, editedAt, entry.on ? added(reactions, entry) : taken(reactions, entry));
    default:
      // Of a kind that only a newer server knows.
      return message;
  }
}

/** In the order of the server's fields. */
function assemble(bare: Message, editedAt: number | undefined, reactions: readonly Reaction[]): Message {
  return {
    ...bare,
    ...(editedAt === undefined ? {} : { editedAt }),
    ...(reactions.length === 0 ? {} : { reactions: [...reactions] }),
  };
}

type ReactionEntry = Extract<Entry, { kind: "reaction" }>;

function added(reactions: readonly Reaction[], { emoji, by }: ReactionEntry): readonly Reaction[] {
  if (!reactions.some((one) => one.emoji === emoji)) return [...reactions, { emoji, count: 1, users: [by] }];
  return reactions.map((one) => {
    if (one.emoji !== emoji || one.users.includes(by)) return one;
    const users = one.users.length < REACTION_USERS_MAX ? [...one.users, by] : one.users;
    return { emoji, count: one.count + 1, users };
  });
}

function taken(reactions: readonly Reaction[], { emoji, by }: ReactionEntry): readonly Reaction[] {
  return reactions
    .map((one) =>
      one.emoji === emoji && isAmong(one, by)
        ? { emoji, count: one.count - 1, users: one.users.filter((user) => user !== by) }
        : one,
    )
    .filter(({ count }) => count > 0);
}

/** Named, or one of those that are only counted. */
const isAmong = ({ count, users }: Reaction, by: string) => users.includes(by) || count > users.length;
