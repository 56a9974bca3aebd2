import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { AppError } from "../../lib/errors.ts";
import type { LocalServices } from "../../lib/rpc/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestRpc, testContract } from "./support.ts";

test.each(["in process", "unix", "tcp"])("a typed call goes by %s", async (way) => {
  await using rpc = await openTestRpc("rpc-way");
  const local: LocalServices = new Map();
  const server = rpc.node("logic", { local, host: way === "tcp" ? "127.0.0.1" : "" });
  await rpc.serve(server);
  const caller = rpc.node("gateway", way === "in process" ? { local } : {});
  const logic = caller.client(testContract);
  expect(await logic.echo({ text: "hello" })).toEqual({ text: "hello", by: "here" });
  expect(await logic.append({ text: "a" })).toEqual({ place: 1 });
});

test("an input against the schema is refused with its issues", async () => {
  await using rpc = await openTestRpc("rpc-invalid");
  await rpc.serve(rpc.node("logic"));
  const error = await failure(rpc.client().echo({ text: "x".repeat(65) }));
  expect(error.code).toBe("INVALID");
  expect(error.issues).toEqual([{ path: "text", message: "must be at most 64 characters" }]);
});

test("what a handler throws arrives; what is not an AppError arrives without its text", async () => {
  await using rpc = await openTestRpc("rpc-throw");
  await rpc.serve(rpc.node("logic"), {
    echo: async () => {
      throw new AppError("MUTED", "until tomorrow", { retryAfterMs: 5, state: "muted" });
    },
    count: async () => {
      throw new Error("with a secret");
    },
  });
  const logic = rpc.client();
  const muted = await failure(logic.echo({ text: "a" }));
  expect([muted.code, muted.message, muted.retryAfterMs, muted.state]).toEqual(["MUTED", "until tomorrow", 5, "muted"]);
  const internal = await failure(logic.count({ text: "a" }));
  expect(internal.code).toBe("INTERNAL");
  expect(internal.message).not.toContain("secret");
});

test("an output against the contract is INTERNAL, not passed on", async () => {
  await using rpc = await openTestRpc("rpc-output");
  await rpc.serve(rpc.node("logic"), { count: async () => ({ total: "many" }) as unknown as { total: number } });
  expect((await failure(rpc.client().count({ text: "a" }))).code).toBe("INTERNAL");
});

test("the deadline ends a call that is under way, and one that nobody takes", async () => {
  await using rpc = await openTestRpc("rpc-deadline");
  const nobody = await failure(rpc.client().echo({ text: "a" }, { timeoutMs: 100 }));
  expect(nobody.code).toBe("OVERLOADED");
  const stuck = Promise.withResolvers<never>();
  await rpc.serve(rpc.node("logic"), { echo: () => stuck.promise, count: () => stuck.promise });
  const logic = rpc.client();
  // What is timed is an instance that is known and does not answer, not the look for one.
  await logic.append({ text: "warm" });
  const startedAt = performance.now();
  const idempotent = failure(logic.echo({ text: "a" }, { timeoutMs: 150 }));
  const other = failure(logic.count({ text: "a" }, { timeoutMs: 150 }));
  expect((await idempotent).code).toBe("DEADLINE_EXCEEDED");
  expect((await other).code).toBe("UNKNOWN_OUTCOME");
  expect(performance.now() - startedAt).toBeWithin(140, 5_000);
});

test("a call waits for an instance that starts within its deadline", async () => {
  await using rpc = await openTestRpc("rpc-wait");
  const reply = rpc.client().echo({ text: "early" });
  await rpc.serve(rpc.node("logic"));
  expect(await reply).toEqual({ text: "early", by: "here" });
});

test("traceparent and the caller's role reach the handler", async () => {
  await using rpc = await openTestRpc("rpc-trace");
  await rpc.serve(rpc.node("logic"), {
    echo: async (_, context) => ({ text: context.traceparent ?? "", by: context.caller }),
  });
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  expect(await rpc.client().echo({ text: "" }, { traceparent })).toEqual({ text: traceparent, by: "gateway" });
});

test("a call against the layer table is refused at the client's creation and by the server", async () => {
  await using rpc = await openTestRpc("rpc-layers");
  expect(() => rpc.node("archive").client(testContract)).toThrow(
    "archive (layer 1) may not call logic (layer 2); publish to im.commands, which logic consumes",
  );
  await rpc.serve(rpc.node("logic"));
  const response = await post(rpc, await tokenOf(rpc, "archive"));
  expect([response.status, ((await response.json()) as AppError).code]).toEqual([500, "LAYER_VIOLATION"]);
});

test("a call without a token of this installation is refused", async () => {
  await using rpc = await openTestRpc("rpc-token");
  await rpc.serve(rpc.node("logic"));
  const good = await tokenOf(rpc, "gateway");
  const forged = good.replace(/^gateway/, "logic");
  for (const token of ["", "x", forged, `${good.slice(0, -2)}AA`]) {
    const response = await post(rpc, token);
    expect([token, response.status]).toEqual([token, 401]);
  }
  expect((await post(rpc, good)).status).toBe(200);
  const stranger = rpc.node("gateway", { secret: "the secret of another installation" });
  expect((await failure(stranger.client(testContract).echo({ text: "a" }))).code).toBe("INTERNAL");
});

test.each([
  ["no JSON", "{", "PARSE_ERROR"],
  ["a batch to a method without", "[{}]", "INVALID"],
  ["null", "null", "INVALID"],
])("a body that is %s is refused", async (_, body, code) => {
  await using rpc = await openTestRpc("rpc-body");
  await rpc.serve(rpc.node("logic"));
  const response = await post(rpc, await tokenOf(rpc, "gateway"), body);
  expect(response.status).toBe(400);
  expect(((await response.json()) as AppError).code).toBe(code as AppError["code"]);
});

test("work past its deadline is refused by the server", async () => {
  await using rpc = await openTestRpc("rpc-late");
  let isRun = false;
  await rpc.serve(rpc.node("logic"), {
    echo: async () => {
      isRun = true;
      return { text: "", by: "" };
    },
  });
  const response = await post(rpc, await tokenOf(rpc, "gateway"), '{"text":"a"}', "0");
  expect([response.status, response.headers.get("skein-refused"), isRun]).toEqual([504, "expired", false]);
});

test("a socket file that a killed server left is replaced; one that is in use is not", async () => {
  await using rpc = await openTestRpc("rpc-socket");
  const first = await rpc.serve(rpc.node("logic"));
  const [name] = readdirSync(rpc.listen.directory);
  const path = `${rpc.listen.directory}/${name}`;
  expect(await failure(rpc.serve(rpc.node("logic")))).toMatchObject({ code: "CONFLICT" });
  await first.stop();
  expect(existsSync(path)).toBe(false);
  const killed = Bun.spawn(["bun", "-e", `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } })`]);
  await eventually(() => expect(existsSync(path)).toBe(true));
  killed.kill("SIGKILL");
  await killed.exited;
  expect(existsSync(path)).toBe(true);
  await rpc.serve(rpc.node("logic"));
  expect(await rpc.client().echo({ text: "a" })).toEqual({ text: "a", by: "here" });
});

async function failure(promise: Promise<unknown>): Promise<AppError> {
  const error = await promise.then(
    () => new Error("it succeeded"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AppError);
  return error as AppError;
}

type Rpc = Awaited<ReturnType<typeof openTestRpc>>;

/** The token that a process of this role would send, caught on the wire. */
async function tokenOf(rpc: Rpc, role: "gateway" | "archive"): Promise<string> {
  const { createTokens } = await import("../../lib/rpc/token.ts");
  const { systemClock } = await import("../../lib/clock.ts");
  const { SECRET } = await import("./support.ts");
  expect(rpc.listen.directory).not.toBe("");
  return createTokens(SECRET, { role, instance: "t-1" }, systemClock).issue();
}

function post(rpc: Rpc, token: string, body = '{"text":"a"}', deadlineMs = "1000"): Promise<Response> {
  const [name] = readdirSync(rpc.listen.directory);
  return fetch("http://localhost/rpc/logic/echo", {
    unix: `${rpc.listen.directory}/${name}`,
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "skein-deadline-ms": deadlineMs },
    body,
  });
}
