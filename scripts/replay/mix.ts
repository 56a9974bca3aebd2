/**
 * What a plan's members do besides speaking, put between its lines: edits, recalls, reactions, reads and typing of several users at
 * once, and lines said on the second device. All is drawn from a seed and none of it is refused in health: who edits is the author and
 * is there, who recalls is the author of the line just said, or the owner, and nobody touches what is recalled.
 */

import type { Random } from "../chaos/random.ts";
import type { Act, Plan, Step } from "./plan.ts";

export interface MixOptions {
  /** The share of the lines that acts follow; 0: none. */
  readonly share: number;
  /** Of every user. */
  readonly devices: number;
  /** Is a member from the start to the end, and may recall anything at any time. */
  readonly owner: string;
  readonly random: Random;
}

/** At once: enough for two to meet on one message. */
const ACTS_AT_ONCE_MAX = 5;
/** How often each kind is drawn, in 20. */
const KINDS: readonly Act["kind"][] = [
  ...Array<"react">(8).fill("react"),
  ...Array<"read">(5).fill("read"),
  ...Array<"typing">(3).fill("typing"),
  ...Array<"edit">(3).fill("edit"),
  "recall",
];
/** Few kinds, so that many users meet in one; a flag, joined ones, and a name that patterns could trip over. */
const EMOJIS = ["👍", "❤️", "👩‍👩‍👧", "+1-", "🇪🇺"];
/** Acts are mostly about what was said last; the others reach behind the hot window. */
const RECENT_LINES = 20;
const OLD_SHARE = 0.2;
/** Of the text that an edit begins from. */
const EDIT_CHARACTERS_MAX = 200;
const OTHER_DEVICE_SHARE = 0.3;

interface Said {
  readonly line: number;
  readonly user: string;
  readonly text: string;
  isRecalled: boolean;
}

/** The plan with acts between its steps. The same seed gives the same plan. */
export function mixIn(plan: Plan, options: MixOptions): Plan {
  const { share, owner, random } = options;
  if (share === 0) return plan;
  const present = new Set([owner, ...plan.initial]);
  const said: Said[] = [];
  const reacted = new Set<string>();
  const steps: Step[] = [];
  for (const step of plan.steps) {
    if (step.kind === "join") present.add(step.user);
    if (step.kind === "leave") present.delete(step.user);
    if (step.kind !== "send") {
      steps.push(step);
      continue;
    }
    steps.push({ ...step, device: drawDevice(options) });
    said.push({ line: step.line, user: step.user, text: step.text, isRecalled: false });
    if (random.next() >= share) continue;
    const acts = drawActs({ ...options, present: [...present], said, reacted });
    if (acts.length > 0) steps.push({ kind: "acts", line: step.line, acts });
  }
  return { ...plan, steps };
}

function drawDevice({ devices, random }: MixOptions): number {
  return random.next() < OTHER_DEVICE_SHARE ? random.between(0, devices - 1) : 0;
}

interface Scene extends MixOptions {
  readonly present: readonly string[];
  readonly said: readonly Said[];
  /** Line, user and emoji of every reaction that stands. */
  readonly reacted: Set<string>;
}

/** Whoever acts at once acts once, so the outcome does not depend on who is first; only the order of the entries does. */
function drawActs(scene: Scene): Act[] {
  const { random } = scene;
  const acts: Act[] = [];
  const busy = new Set<string>();
  const touched = new Set<number>();
  for (let left = random.between(1, ACTS_AT_ONCE_MAX); left > 0; left--) {
    const act = drawAct(scene, touched);
    if (!act || busy.has(act.user)) continue;
    perform(scene, act);
    if ("target" in act && act.kind !== "read") touched.add(act.target);
    busy.add(act.user);
    acts.push(act);
  }
  return acts;
}

/** Undefined when what was drawn cannot be done. */
function drawAct(scene: Scene, touched: ReadonlySet<number>): Act | undefined {
  const { random, present, said, reacted, owner } = scene;
  const kind = random.pick(KINDS);
  const device = drawDevice(scene);
  const user = random.pick(present);
  if (kind === "typing") return { kind, user, device };
  const isOld = random.next() < OLD_SHARE;
  const target = random.pick(isOld ? said : said.slice(-RECENT_LINES));
  if (kind === "read") return { kind, user, device, target: target.line };
  const emoji = random.pick(EMOJIS);
  const isByOwner = random.next() < 0.5;
  if (kind === "recall") {
    const { line, user: author, isRecalled } = isByOwner ? target : said.at(-1)!;
    if (isRecalled || touched.has(line)) return undefined;
    return { kind, user: isByOwner ? owner : author, device, target: line };
  }
  if (target.isRecalled) return undefined;
  if (kind === "react") {
    return { kind, user, device, target: target.line, emoji, on: !reacted.has(reactionOf(target.line, user, emoji)) };
  }
  if (!present.includes(target.user)) return undefined;
  const text = `${[...target.text].slice(0, EDIT_CHARACTERS_MAX).join("")} · edited ${Math.floor(random.next() * 1e9)}`;
  return { kind, user: target.user, device, target: target.line, text };
}

function perform({ said, reacted }: Scene, act: Act): void {
  if (act.kind === "recall") said.find(({ line }) => line === act.target)!.isRecalled = true;
  if (act.kind !== "react") return;
  const reaction = reactionOf(act.target, act.user, act.emoji);
  if (act.on) reacted.add(reaction);
  else reacted.delete(reaction);
}

const reactionOf = (line: number, user: string, emoji: string) => `${line} ${user} ${emoji}`;
