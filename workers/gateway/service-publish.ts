/**
 * Publishing by services: up to 500 messages in a call, each with a result of its own, in the order of the request. A bad message does
 * not hold up the others; when all fail alike, the call fails like them (one bad message is a 400, a full topic a 429). The data
 * is taken as it was written: what a consumer gets is the publisher's text, byte for byte.
 */

import type { Context } from "hono";
import * as v from "valibot";
import { AppError, type ErrorBody, toErrorBody } from "../../lib/errors.ts";
import {
  type AppEnv,
  invalid,
  memberTexts,
  ProblemSchema,
  parseJson,
  readJsonText,
  validate,
} from "../../lib/http/index.ts";
import type { PublishInput, Queue, Topic } from "../../lib/mq/index.ts";
import { assertMayWrite, Name } from "./service-inputs.ts";
import { MessageParams, toPublishInput } from "./service-message.ts";
import { publisher, type ServiceRoute, serviceRoute } from "./service-route.ts";

const BATCH_MAX = 500;
const BATCH_BYTES_MAX = 1024 * 1_024;
/** Faults named when all messages fail. */
const ISSUES_MAX = 20;
const BATCH_MESSAGE = `must be a list of 1 to ${BATCH_MAX} messages`;
const batchOf = <const S extends v.GenericSchema>(message: S) =>
  v.strictObject({
    topic: Name,
    messages: v.pipe(
      v.array(message, BATCH_MESSAGE),
      v.minLength(1, BATCH_MESSAGE),
      v.maxLength(BATCH_MAX, BATCH_MESSAGE),
    ),
  });
/** What is checked of a batch as a whole; each message is then judged by itself. */
const Batch = batchOf(v.unknown());

const { type: _type, title: _title, status: _status, ...errorEntries } = ProblemSchema.entries;
const PublishReply = v.strictObject({
  results: v.array(
    v.union([
      v.strictObject({
        id: v.string(),
        partition: v.number(),
        duplicate: v.optional(v.literal(true)),
        /** It waits until then. */
        deliverAt: v.optional(v.number()),
      }),
      v.strictObject({ error: v.object(errorEntries) }),
    ]),
  ),
});

type Input = PublishInput<unknown>;
interface Published {
  readonly id: string;
  readonly partition: number;
  readonly duplicate?: true;
  readonly deliverAt?: number;
}
type Result = Published | { readonly error: ErrorBody };

export function publishRoutes(queue: Queue): readonly ServiceRoute[] {
  return [
    serviceRoute(
      "post",
      "/v1/topics/:topic/messages",
      {
        summary: "Publish up to 500 messages; each has its own result, a bad one does not hold up the others",
        scopes: publisher,
        input: batchOf(MessageParams),
        read: readBatch,
        replies: { 200: PublishReply },
      },
      async ({ c, params: { topic: name, messages } }) => {
        assertMayWrite(name);
        const topic = await queue.catalog.ensureTopic(name);
        const results = messages.map((message, i) =>
          message instanceof AppError ? failed(message, i) : publish(queue, topic, message, i),
        );
        return c.json({ results: assertSomeDone(await Promise.all(results)) });
      },
    ),
  ];
}

/** The batch, with each message checked: what is to be published, or why it cannot be. */
async function readBatch(c: Context<AppEnv>): Promise<{ topic: string; messages: readonly (Input | AppError)[] }> {
  const text = await readJsonText(c.req.raw, BATCH_BYTES_MAX);
  const body = parseJson(text);
  if (typeof body === "object" && body !== null && Object.hasOwn(body, "topic"))
    throw invalid("topic", "is not a known field");
  const { topic, messages } = validate(Batch, Array.isArray(body) ? body : { ...(body as object), ...c.req.param() });
  const data = memberTexts(text, "messages", "data");
  const traceparent = c.req.header("traceparent");
  return { topic, messages: messages.map((message, i) => toInput(message, data[i], traceparent)) };
}

function toInput(message: unknown, raw: string | undefined, traceparent: string | undefined): Input | AppError {
  try {
    return toPublishInput(validate(MessageParams, message), raw!, traceparent);
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
}

/** Publications of one tick travel together, so a call for each costs no round trip each. */
async function publish(queue: Queue, topic: Topic<unknown>, input: Input, index: number): Promise<Result> {
  try {
    const { id, partition, duplicate, deliverAt } = await queue.publish(topic, input);
    return { id, partition, ...(duplicate ? { duplicate } : {}), ...(deliverAt === undefined ? {} : { deliverAt }) };
  } catch (error) {
    if (error instanceof AppError && error.code !== "INTERNAL") return failed(error, index);
    throw error;
  }
}

function failed(error: AppError, index: number): Result {
  const body = toErrorBody(error);
  const issues = body.issues?.map(({ path, message }) => ({
    path: ["messages", index, path].filter((part) => part !== "").join("."),
    message,
  }));
  return { error: { ...body, ...(issues ? { issues } : {}) } };
}

/** Throws when all failed, and for one and the same reason. */
function assertSomeDone(results: readonly Result[]): readonly Result[] {
  const errors = results.flatMap((result) => ("error" in result ? [result.error] : []));
  const [first] = errors;
  if (!first || errors.length < results.length || errors.some(({ code }) => code !== first.code)) return results;
  const issues = errors.flatMap((error) => error.issues ?? []).slice(0, ISSUES_MAX);
  const detail = issues.length > 0 ? issues.map(({ path, message }) => `${path} ${message}`).join("; ") : first.detail;
  throw new AppError(first.code, detail, {
    ...(issues.length > 0 ? { issues } : {}),
    ...(first.retryAfterMs === undefined
      ? {}
      : { retryAfterMs: Math.max(...errors.map((error) => error.retryAfterMs ?? 0)) }),
  });
}
