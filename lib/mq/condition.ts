/**
 * What a delayed message may ask for at its due time: a look at one key of its partition, in the very script that appends it. When the
 * condition does not hold, the message is dropped.
 *
 *   { kind: "keyAbsent", key }                       nobody has written the key
 *   { kind: "keyEquals", key, value }                the string under the key is this one
 *   { kind: "fieldBelow", key, field, word, limit }  the word-th number in a field of a hash is smaller; a missing one is not
 */

import type { Issue } from "../errors.ts";
import type { Keys } from "../redis/index.ts";

export type Condition =
  | { readonly kind: "keyAbsent"; readonly key: string }
  | { readonly kind: "keyEquals"; readonly key: string; readonly value: string }
  | {
      readonly kind: "fieldBelow";
      readonly key: string;
      readonly field: string;
      /** Counted from 1, words being separated by blanks. */
      readonly word: number;
      readonly limit: number;
    };

/** A condition lies in the record for as long as the message waits. */
const CONDITION_LENGTH_MAX = 1_024;
/** The fields of our hashes hold at most ten. */
const WORD_MAX = 100;

/** What is wrong with a condition of a message of this partition; nothing when it is well. */
export function issuesOfCondition(keys: Keys, partition: number, condition: Condition): Issue[] {
  const issues: Issue[] = [];
  if (!keys.isOfPartition(condition.key, partition)) {
    issues.push({ path: "condition.key", message: "must lie in the partition of the message's key" });
  }
  if (condition.kind === "fieldBelow") {
    const { word, limit } = condition;
    if (!(Number.isInteger(word) && word >= 1 && word <= WORD_MAX)) {
      issues.push({ path: "condition.word", message: `must be a whole number from 1 to ${WORD_MAX}` });
    }
    if (!Number.isSafeInteger(limit)) issues.push({ path: "condition.limit", message: "must be a whole number" });
  }
  const { length } = formatCondition(condition);
  if (length > CONDITION_LENGTH_MAX) {
    const message = `is ${length} characters as JSON; the limit is ${CONDITION_LENGTH_MAX}`;
    issues.push({ path: "condition", message });
  }
  return issues;
}

/** As it lies in a record; "" for none. */
export function formatCondition(condition: Condition | undefined): string {
  return condition === undefined ? "" : JSON.stringify(condition);
}

export function parseCondition(text: string): Condition | undefined {
  return text === "" ? undefined : (JSON.parse(text) as Condition);
}
