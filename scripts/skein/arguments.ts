/** Arguments that several commands take, and what becomes of their texts. A wrong one is a Failure that names it. */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import { ID_PATTERN } from "../../lib/id.ts";
import {
  type AnyTopic,
  defineTopic,
  type GroupDescription,
  type Queue,
  type TopicDescription,
} from "../../lib/mq/index.ts";
import { Failure } from "./running.ts";

export const topicArgument = { type: "string", description: "The topic", valueHint: "name" } as const;
export const groupArgument = { type: "string", description: "The group", valueHint: "name" } as const;
export const jsonArgument = { type: "boolean", default: false, description: "Print JSON" } as const;
export const yesArgument = {
  type: "boolean",
  default: false,
  description: "Do it; without, only say what would be done",
} as const;

/** Throws Failure when it is missing. */
export function required(name: string, value: string | undefined): string {
  if (value === undefined || value === "") throw new Failure(`--${name} is missing`);
  return value;
}

/** A topic by its name, whether the catalog knows it or only a program does. Throws Failure. */
export async function topicNamed(queue: Queue, name: string): Promise<AnyTopic> {
  if (!ID_PATTERN.test(name)) throw new Failure(`--topic ${JSON.stringify(name)} must be 1..64 of [A-Za-z0-9_.-]`);
  try {
    return await queue.catalog.topicOf(name);
  } catch (error) {
    if (!(error instanceof AppError && error.code === "NOT_FOUND")) throw error;
    return defineTopic(name, { schema: v.unknown() });
  }
}

/** The group as it stands. Throws Failure that names the groups there are. */
export async function groupNamed(
  queue: Queue,
  args: { readonly topic?: string | undefined; readonly group?: string | undefined },
): Promise<{ topic: AnyTopic; group: GroupDescription; described: TopicDescription }> {
  const topic = await topicNamed(queue, required("topic", args.topic));
  const name = required("group", args.group);
  const described = await queue.describe(topic);
  const group = described.groups.find((each) => each.group === name);
  if (group) return { topic, group, described };
  const known = described.groups.map((each) => each.group).join(", ");
  throw new Failure(
    `topic ${topic.name} has no group ${JSON.stringify(name)}${known === "" ? "" : `; it has ${known}`}`,
  );
}

/** Unix ms, or a moment as ISO 8601 has it. */
export function timeOf(name: string, text: string): number {
  const ms = /^\d+$/.test(text) ? Number(text) : Date.parse(text);
  if (!Number.isSafeInteger(ms))
    throw new Failure(`--${name} ${text} must be Unix ms or a time as 2026-01-31T12:00:00Z`);
  return ms;
}

export function wholeNumberOf(name: string, text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new Failure(`--${name} ${text} must be a whole number`);
  return Number(text);
}
