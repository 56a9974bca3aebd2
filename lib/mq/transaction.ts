/**
 * Transactional messages for state outside our Redis: prepare a half message, do the local transaction, commit or roll back.
 *
 *   const half = await queue.transactions.prepare(orders, message, { producerGroup: "shop" });
 *   await database.insert(order, half.id);
 *   await queue.transactions.commit(half.id);
 *
 * A producer that dies in between is asked (checks.ts): after 10 s, then 15 times in all within 4 h. What nobody answers expires and
 * is listed for an operator for 7 days. No group sees the message before the commit, and never after a rollback.
 */

import { AppError, type Issue } from "../errors.ts";
import { newId, newPlacedId } from "../id.ts";
import type { Service } from "../service.ts";
import {
  answerCheck,
  assertProducerGroup,
  type Check,
  type CheckAnswer,
  type CheckHandler,
  createAnswering,
  createCheckCaller,
  type ReceiveChecksOptions,
  receiveChecks,
} from "./checks.ts";
import type { QueueContext } from "./consumer.ts";
import {
  decideHalf,
  HALF_TIMES,
  type Half,
  type HalfContext,
  type HalfDetails,
  type HalfTimes,
  prepareHalf,
  readHalf,
  resumeHalf,
} from "./half.ts";
import { expireHalves, type HalfExpiry } from "./half-expiry.ts";
import { type HalfListOptions, type HalfPage, listHalves } from "./half-list.ts";
import { type PublishInput, valuesOf } from "./producer.ts";
import type { Topic } from "./topic.ts";

export interface PrepareOptions {
  /** Who can tell what became of it: 1..64 of [A-Za-z0-9_.-]. */
  readonly producerGroup: string;
  /** Checks go there by HTTP, not to members of the producer group. */
  readonly checkUrl?: string;
  /** When the first check may come: longer than the local transaction takes. 0..3 600 000, default 10 000. */
  readonly firstCheckMs?: number;
}

export interface Transactions {
  /**
   * Keeps a message that no group sees yet. Throws AppError: INVALID and TOO_LARGE as publish; RATE_LIMITED when 2 000 of its
   * partition are undecided or its topic is full; UNKNOWN_OUTCOME: prepare anew, what may have been kept is asked for and expires.
   */
  prepare<D>(topic: Topic<D>, input: PublishInput<D>, options: PrepareOptions): Promise<Half>;
  /**
   * Appends it to its topic, in the place that it has now. The same again answers the same, 24 h long. Throws AppError CONFLICT with
   * `state` when it was rolled back, NOT_FOUND, OVERLOADED (nothing done) or UNKNOWN_OUTCOME (repeat it).
   */
  commit(id: string): Promise<Half>;
  /** Drops the message. As commit. */
  rollback(id: string): Promise<Half>;
  /** Throws NOT_FOUND. */
  get(id: string): Promise<HalfDetails>;
  /** Throws INVALID for a limit or cursor that is none. */
  list(options: HalfListOptions): Promise<HalfPage>;
  /** Gives an expired one new checks, the first now. Throws CONFLICT with `state` when it was decided, NOT_FOUND, RATE_LIMITED. */
  resume(id: string): Promise<Half>;
  /** Answers the checks of a producer group while it runs. Any number of processes may; each check goes to one. */
  answerChecks(producerGroup: string, handle: CheckHandler): Service;
  /** Makes the checks of halves with a `checkUrl` while it runs; `call` asks the URL. Any number of processes may. */
  createCheckCaller(options: { readonly call: CheckHandler }): Service;
  /** Pull: waits for due checks and takes them. Throws INVALID. A check that nobody answers comes again at its next time. */
  receiveChecks(producerGroup: string, options: ReceiveChecksOptions): Promise<Check[]>;
  /** Commits, rolls back, or (`unknown`) leaves it to the next check. Throws as commit. */
  answerCheck(id: string, answer: CheckAnswer): Promise<Half>;
  /** The chore that ends what nobody decided: every few seconds, in one process. */
  expire(): Promise<HalfExpiry>;
}

const FIRST_CHECK_MS_MAX = 3_600_000;
const CHECK_URL_LENGTH_MAX = 1_024;

/** `mayPublish` throws for topics that this process must not publish to. */
export function createTransactions(
  queue: QueueContext,
  mayPublish: (topic: string) => void,
  times: Partial<HalfTimes> = {},
): Transactions {
  const context: HalfContext = { ...queue, times: { ...HALF_TIMES, ...times } };
  return {
    async prepare(topic, input, options) {
      mayPublish(topic.name);
      return prepare(context, topic, input, options);
    },
    commit: (id) => decideHalf(context, id, "committed"),
    rollback: (id) => decideHalf(context, id, "rolled_back"),
    get: (id) => readHalf(context, id),
    list: (options) => listHalves(context, options),
    resume: (id) => resumeHalf(context, id),
    answerChecks: (producerGroup, handle) => createAnswering(context, producerGroup, handle),
    createCheckCaller: ({ call }) => createCheckCaller(context, call),
    receiveChecks: (producerGroup, options) => receiveChecks(context, producerGroup, options),
    answerCheck: (id, answer) => answerCheck(context, id, answer),
    expire: () => expireHalves(context),
  };
}

async function prepare<D>(
  context: HalfContext,
  topic: Topic<D>,
  input: PublishInput<D>,
  { producerGroup, checkUrl, firstCheckMs = context.times.firstCheckMs }: PrepareOptions,
): Promise<Half> {
  assertProducerGroup(producerGroup);
  const issues: Issue[] = [];
  if (!(Number.isInteger(firstCheckMs) && firstCheckMs >= 0 && firstCheckMs <= FIRST_CHECK_MS_MAX)) {
    issues.push({ path: "firstCheckMs", message: `must be a whole number from 0 to ${FIRST_CHECK_MS_MAX}` });
  }
  if (checkUrl !== undefined && !isCheckUrl(checkUrl)) {
    const message = `must be an http(s) URL of at most ${CHECK_URL_LENGTH_MAX} characters, without a password`;
    issues.push({ path: "checkUrl", message });
  }
  if (input.deliverAt !== undefined || input.condition !== undefined) {
    issues.push({ path: "deliverAt", message: "cannot be given: the commit is the time when it is delivered" });
  }
  if (issues.length > 0) throw refused(issues);
  const { keys, clock } = context;
  // A message without a key goes to any partition, as with publish.
  const partition = keys.partitionOf(input.key || newId(clock.now()));
  const id = newPlacedId(clock.now(), partition);
  const values = valuesOf(topic, input, input.id ?? id);
  return prepareHalf(context, { id, partition, topic, producerGroup, checkUrl, firstCheckMs, values });
}

function isCheckUrl(text: string): boolean {
  if (text.length > CHECK_URL_LENGTH_MAX || !URL.canParse(text) || /\s/.test(text)) return false;
  const { protocol, username, password } = new URL(text);
  return (protocol === "https:" || protocol === "http:") && username === "" && password === "";
}

function refused(issues: readonly Issue[]): AppError {
  const lines = issues.map(({ path, message }) => `${path} ${message}`).join("; ");
  return new AppError("INVALID", `transaction refused: ${lines}`, { issues });
}
