/**
 * A timeline without a user: what becomes of the entries and folded parts that name him. What he wrote goes, what others wrote stays to
 * the byte, and where he is named stands a pseudonym. His messages become recalled ones, so whoever reads or folds them needs to know
 * nothing new.
 *
 *   his message        body {} and no mentions; beside it the content part of a recalled one
 *   his edit           body {}
 *   everything else    `by`, `users`, `mentions`, reactions: the pseudonym
 */

import type { ArchivedEntry } from "../archive/contract.ts";
import type { Reaction } from "./protocol.ts";

/** As lib/im/messages.ts and the scripts write them: what stands before and behind a body never looks like it. */
const MESSAGE =
  /^(\{"seq":\d+,"id":"[^"]*","conversation":"[^"]*",)"from":"([^"]*)",("type":"[^"]*",)"body":(.*),("sentAt":\d+(?:,"replyTo":\d+)?)(?:,"mentions":(\[[^\]]*\]))?\}$/s;
const EDIT = /^(\{"kind":"edit","seq":\d+,"id":"[^"]*",)"by":"([^"]*)",("at":\d+,"target":(\d+)),"body":.*\}$/s;

export interface ErasedRecord {
  readonly record: string;
  /** The seq of the message whose text goes with it: of his own message and of his edits. */
  readonly ownMessage?: number;
}

export interface Eraser {
  /** As entries and parts that may name him hold his id. */
  readonly quoted: string;
  /** The texts by which events and commands name him. */
  readonly texts: readonly string[];
  /** The content part of his messages, behind the seq it is as of. */
  readonly mark: string;
  /** undefined: it does not name him. */
  record(kind: ArchivedEntry["kind"], seq: number, record: string): ErasedRecord | undefined;
  /** Of a reactions part. undefined: it does not name him. */
  reactions(part: string): string | undefined;
}

/** The fields by which the data of messages of the queue name one user. Lists name several. */
const NAMING_FIELDS = ["from", "by", "user", "owner"];

export function createEraser(user: string, pseudonym: string, atMs: number): Eraser {
  const quoted = JSON.stringify(user);
  const renamed = (name: string) => (name === user ? pseudonym : name);

  function message(seq: number, record: string): ErasedRecord | undefined {
    const [, head, from, type, body, tail, mentions] = MESSAGE.exec(record) ?? [];
    if (from === undefined) return undefined;
    if (from === user) return { record: `${head}"from":"${pseudonym}",${type}"body":{},${tail}}`, ownMessage: seq };
    const users = JSON.parse(mentions ?? "[]") as string[];
    if (!users.includes(user)) return undefined;
    return {
      record: `${head}"from":"${from}",${type}"body":${body},${tail},"mentions":${JSON.stringify(users.map(renamed))}}`,
    };
  }

  function edit(record: string): ErasedRecord | undefined {
    const [, head, by, middle, target] = EDIT.exec(record) ?? [];
    if (by !== user) return undefined;
    return { record: `${head}"by":"${pseudonym}",${middle},"body":{}}`, ownMessage: Number(target) };
  }

  return {
    quoted,
    texts: [...NAMING_FIELDS.map((field) => `"${field}":${quoted}`), `[${quoted}`, `,${quoted},`, `,${quoted}]`],
    mark: ` 0 ${atMs} {}`,
    record(kind, seq, record) {
      if (kind === "message") return message(seq, record);
      if (kind === "edit") return edit(record);
      // Nothing in these but what the scripts put there: text and back is the same text.
      const entry = JSON.parse(record) as { by: string; users?: string[] };
      if (entry.by !== user && !entry.users?.includes(user)) return undefined;
      const users = entry.users === undefined ? {} : { users: entry.users.map(renamed) };
      return { record: JSON.stringify({ ...entry, by: renamed(entry.by), ...users }) };
    },
    reactions(part) {
      const from = part.indexOf(" ") + 1;
      const all = JSON.parse(part.slice(from)) as Reaction[];
      if (!all.some(({ users }) => users.includes(user))) return undefined;
      return part.slice(0, from) + JSON.stringify(all.map((one) => ({ ...one, users: one.users.map(renamed) })));
    },
  };
}
