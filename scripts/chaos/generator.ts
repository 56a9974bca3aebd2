/**
 * The generator process of a chaos run: users with connections, lanes that send, evidence of both. Its parent starts it, reads
 * its counts several times a second, and tells it to stop; then it finishes what is under way and says so.
 */

import { createClient } from "./client.ts";
import { type EvidenceWriter, openEvidence, type PlannedConversation } from "./evidence.ts";
import { type Counts, runLane } from "./lane.ts";
import { createRandom } from "./random.ts";

export interface GeneratorPlan {
  readonly seed: number;
  readonly evidencePath: string;
  /** ws://host:port/v1/ws of each gateway. */
  readonly urls: readonly string[];
  readonly users: readonly { readonly user: string; readonly token: string }[];
  readonly conversations: readonly PlannedConversation[];
  readonly pauseMs: number;
}

export type GeneratorCommand = { readonly type: "start"; readonly plan: GeneratorPlan } | { readonly type: "stop" };

export type GeneratorEvent =
  | { readonly type: "counts"; readonly counts: Counts }
  /** Every message is acknowledged. */
  | { readonly type: "settled"; readonly counts: Counts }
  | { readonly type: "refused"; readonly reason: string };

const REPORT_MS = 50;

const tell = (event: GeneratorEvent) => process.send?.(event);
let isStopping = false;

async function generate(plan: GeneratorPlan): Promise<void> {
  const evidence = openEvidence(plan.evidencePath);
  evidence.write({ e: "plan", seed: plan.seed, conversations: plan.conversations });
  const counts: Counts = { ok: 0, duplicate: 0, failed: 0, unknown: 0, refused: 0, disorder: 0 };
  const random = createRandom(plan.seed);
  const clients = new Map(
    plan.users.map(({ user, token }, index) => {
      const watch = createOrderWatch(user, evidence, counts);
      const client = createClient({
        user,
        token,
        urls: plan.urls,
        first: index,
        onReady: watch.connected,
        onNotification: watch.take,
        onRefused: (reason) => tell({ type: "refused", reason: `${user}: ${reason}` }),
      });
      return [user, client];
    }),
  );
  const reporting = setInterval(() => tell({ type: "counts", counts }), REPORT_MS);
  const lanes = plan.conversations.flatMap(({ id, members }) =>
    members.map((user) =>
      runLane({
        user,
        conversation: id,
        client: clients.get(user)!,
        evidence,
        counts,
        random,
        pauseMs: plan.pauseMs,
        isStopping: () => isStopping,
      }),
    ),
  );
  await Promise.all(lanes);
  clearInterval(reporting);
  for (const client of clients.values()) client.close();
  evidence.close();
  tell({ type: "settled", counts });
}

/** Timeline notifications of one connection come by seq, each at most once. Gaps are allowed: the client would ask. */
function createOrderWatch(user: string, evidence: EvidenceWriter, counts: Counts) {
  let last = new Map<string, number>();
  return {
    connected() {
      last = new Map();
    },
    take(method: string, params: Record<string, unknown>) {
      if (method !== "message") return;
      const { conversation, seq } = params.message as { conversation: string; seq: number };
      const after = last.get(conversation) ?? 0;
      if (seq <= after) {
        counts.disorder++;
        evidence.write({ e: "disorder", user, conversation, seq, after, t: Date.now() });
      } else last.set(conversation, seq);
    },
  };
}

process.on("message", (command: GeneratorCommand) => {
  if (command.type === "stop") isStopping = true;
  else void generate(command.plan);
});
process.on("disconnect", () => process.exit(0));
