/**
 * Routes of half messages and of the checks that ask what became of them. What one transaction is about only those learn who may publish
 * to its topic, and operators; to others it is not there.
 */

import type { Context } from "hono";
import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import {
  type AppEnv,
  type Caller,
  hasScope,
  invalid,
  memberText,
  parseJson,
  readJsonText,
  requireScope,
  type Scope,
  validate,
} from "../../lib/http/index.ts";
import { checkOutboundUrl } from "../../lib/http/outbound.ts";
import { type Half, type HalfDetails, halfJson, type Queue } from "../../lib/mq/index.ts";
import { assertMayWrite, Name, whole } from "./service-inputs.ts";
import { HalfMessageParams, toPublishInput } from "./service-message.ts";
import { admin, type ServiceRoute, serviceRoute } from "./service-route.ts";

const BODY_BYTES_MAX = 512 * 1_024;
const FIRST_CHECK_MS_MAX = 3_600_000;
const CHECKS_MAX = 100;
const WAIT_MS_MAX = 20_000;
const IDLE_BEYOND_WAIT_S = 15;
const PAGE_MAX = 200;
const JSON_TYPE = { "content-type": "application/json" };

const PrepareParams = v.strictObject({
  topic: Name,
  message: HalfMessageParams,
  producerGroup: Name,
  checkUrl: v.exactOptional(v.pipe(v.string(), v.maxLength(1_000, "must be at most 1000 characters"))),
  firstCheckMs: v.exactOptional(whole(0, FIRST_CHECK_MS_MAX)),
});
const States = v.picklist(["prepared", "committed", "rolled_back", "expired"]);
const StateReply = v.strictObject({ id: v.string(), state: States });
const HalfReply = v.strictObject({
  ...StateReply.entries,
  topic: v.string(),
  producerGroup: v.string(),
  checkUrl: v.optional(v.string()),
  checks: v.number(),
  preparedAt: v.number(),
  messageId: v.string(),
  duplicate: v.optional(v.boolean()),
});
const DetailsReply = v.strictObject({
  ...HalfReply.entries,
  nextCheckAt: v.optional(v.number()),
  event: v.optional(v.looseObject({})),
});
const ListParams = v.strictObject({
  state: v.picklist(["prepared", "expired"], "must be prepared or expired"),
  limit: v.exactOptional(whole(1, PAGE_MAX)),
  cursor: v.exactOptional(v.string()),
});
const ANSWERS = ["commit", "rollback", "unknown"] as const;
const AnswerParams = v.strictObject({
  producerGroup: Name,
  id: Name,
  answer: v.picklist([...ANSWERS, "COMMIT", "ROLLBACK", "UNKNOWN"], `must be one of ${ANSWERS.join(", ")}`),
});
const ChecksReply = v.strictObject({
  checks: v.array(v.strictObject({ ...HalfReply.entries, event: v.looseObject({}) })),
});

export interface TransactionParts {
  readonly queue: Queue;
  /** SKEIN_OUTBOUND_PRIVATE: what a check URL may be. */
  readonly allowPrivate: boolean;
  /** Signs the check calls to members of a producer group. */
  readonly checkSecretOf: (producerGroup: string) => string;
}

/** Of whichever topic: which one it must be is known only with the transaction. */
const anyPublisher = (): readonly Scope[] => ["publish:", "admin"];

export function transactionRoutes(parts: TransactionParts): readonly ServiceRoute[] {
  return [...halfRoutes(parts), ...checkRoutes(parts)];
}

function halfRoutes({ queue, allowPrivate }: TransactionParts): readonly ServiceRoute[] {
  const { transactions } = queue;
  const one = "/v1/transactions/:id";
  const OfId = v.strictObject({ id: Name });

  /** Decides, or gives new checks. */
  const act = (name: "commit" | "rollback" | "resume", summary: string) =>
    serviceRoute(
      "post",
      `${one}/${name}`,
      { summary, scopes: anyPublisher, input: OfId, mayLackBody: true, replies: { 200: HalfReply } },
      async ({ c, caller, params: { id } }) => {
        await findHalf(queue, caller, id);
        return c.body(halfJson(await transactions[name](id)), 200, JSON_TYPE);
      },
    );

  return [
    serviceRoute(
      "post",
      "/v1/transactions",
      {
        summary: "Prepare a half message: kept, and seen by nobody before its commit",
        scopes: () => ["publish:"],
        input: PrepareParams,
        read: readPrepare,
        replies: { 201: StateReply },
      },
      async ({ c, caller, params: { topic, message, raw, producerGroup, ...options } }) => {
        requireScope(caller, `publish:${topic}`);
        assertMayWrite(topic);
        if (options.checkUrl !== undefined) checkCheckUrl(options.checkUrl, allowPrivate);
        const input = toPublishInput(message, raw, c.req.header("traceparent"));
        const { id, state } = await transactions.prepare(await queue.catalog.ensureTopic(topic), input, {
          producerGroup,
          ...options,
        });
        return c.json({ id, state }, 201);
      },
    ),
    serviceRoute(
      "get",
      "/v1/transactions",
      {
        summary: "What is undecided: prepared, or expired and waiting for an operator",
        scopes: admin,
        input: ListParams,
        replies: { 200: v.strictObject({ transactions: v.array(HalfReply), next: v.optional(v.string()) }) },
      },
      async ({ c, params }) => {
        const { halves, next } = await transactions.list(params);
        const shown = halves.map((half) => halfJson(half)).join(",");
        return c.body(`{"transactions":[${shown}]${next ? `,"next":${JSON.stringify(next)}` : ""}}`, 200, JSON_TYPE);
      },
    ),
    serviceRoute(
      "get",
      one,
      { summary: "A transaction and its message", scopes: anyPublisher, input: OfId, replies: { 200: DetailsReply } },
      async ({ c, caller, params: { id } }) => {
        return c.body(halfJson(await findHalf(queue, caller, id)), 200, JSON_TYPE);
      },
    ),
    act("commit", "Commit: the message is appended to its topic, once"),
    act("rollback", "Roll back: the message is dropped"),
    act("resume", "Give an expired transaction new checks"),
  ];
}

function checkRoutes({ queue, checkSecretOf }: TransactionParts): readonly ServiceRoute[] {
  const { transactions } = queue;
  const group = "/v1/producer-groups/:producerGroup";
  return [
    serviceRoute(
      "get",
      group,
      {
        summary: "The secret that signs check calls to this producer group (Standard Webhooks)",
        scopes: admin,
        input: v.strictObject({ producerGroup: Name }),
        replies: { 200: v.strictObject({ producerGroup: v.string(), checkSecret: v.string() }) },
      },
      ({ c, params: { producerGroup } }) => c.json({ producerGroup, checkSecret: checkSecretOf(producerGroup) }),
    ),
    serviceRoute(
      "put",
      `${group}/checks/receive`,
      {
        summary: "Due checks of the producer group: what became of these transactions?",
        scopes: () => ["publish:"],
        input: v.strictObject({
          producerGroup: Name,
          max: v.optional(whole(1, CHECKS_MAX), CHECKS_MAX),
          waitMs: v.optional(whole(0, WAIT_MS_MAX), 0),
        }),
        mayLackBody: true,
        replies: { 200: ChecksReply },
      },
      async ({ c, caller, params: { producerGroup, ...options } }) => {
        c.env.idleTimeout?.(Math.ceil(options.waitMs / 1_000) + IDLE_BEYOND_WAIT_S);
        const checks = await transactions.receiveChecks(producerGroup, { ...options, signal: c.req.raw.signal });
        // A name that another service took by mistake: its checks come again to who may answer them.
        const shown = checks.filter((check) => maySee(caller, check)).map((check) => halfJson(check));
        return c.body(`{"checks":[${shown.join(",")}]}`, 200, JSON_TYPE);
      },
    ),
    serviceRoute(
      "post",
      `${group}/checks/:id`,
      {
        summary: "Answer a check: commit, rollback, or unknown yet",
        scopes: anyPublisher,
        input: AnswerParams,
        replies: { 200: StateReply },
      },
      async ({ c, caller, params: { producerGroup, id, answer } }) => {
        if ((await findHalf(queue, caller, id)).producerGroup !== producerGroup) throw absent();
        const { state } = await transactions.answerCheck(id, answer.toLowerCase() as (typeof ANSWERS)[number]);
        return c.json({ id, state });
      },
    ),
  ];
}

/** Throws NOT_FOUND, in the same words for what is not the caller's to see. */
async function findHalf({ transactions }: Queue, caller: Caller, id: string): Promise<HalfDetails> {
  const half = await transactions.get(id).catch((error: unknown) => {
    throw error instanceof AppError && error.code === "NOT_FOUND" ? absent() : error;
  });
  if (!maySee(caller, half)) throw absent();
  return half;
}

function absent(): AppError {
  return new AppError("NOT_FOUND", "There is no such transaction, or it ended long ago");
}

function maySee(caller: Caller, { topic }: Pick<Half, "topic">): boolean {
  return hasScope(caller, `publish:${topic}`) || hasScope(caller, "admin");
}

/** With the text of the message's data as it was written. */
async function readPrepare(c: Context<AppEnv>) {
  const text = await readJsonText(c.req.raw, BODY_BYTES_MAX);
  return { ...validate(PrepareParams, parseJson(text)), raw: memberText(text, "message", "data")! };
}

function checkCheckUrl(url: string, allowPrivate: boolean): void {
  try {
    checkOutboundUrl(url, { allowPrivate });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    throw invalid("checkUrl", error.issues?.[0]?.message ?? "is not allowed");
  }
}
