/**
 * Whom a frame of the delivery stream goes to:
 *
 *   <conversation> <seq> <list>[!<number>]      "- 0": no place in a timeline; `!`: but not to this connection
 *
 *   list    n1,n2,…     these connections, by their numbers in base 36
 *           =           the list of the frame before, in the same entry
 *           *           every connection
 *           #           the channel's subscribers here
 *           #+n1,n2,…   these become subscribers, and it goes to all of them
 *           #-n1,n2,…   these are subscribers no more, and it goes to the others
 *           ~           those here who watch the user's presence (a user's id stands in the conversation's place)
 *           ~-n1,n2,…   these watch it no more; there is no frame
 *           x n1,n2,…   these connections are closed; the frame is the reason
 */

export type TargetKind = "list" | "all" | "channel" | "watchers" | "close";

/** One parser for all frames of a gateway: a list in force is read once, and nothing is allocated for a short one. */
export class Targets {
  conversation = "";
  seq = 0;
  kind: TargetKind = "list";
  /** Of a list, or who comes into the channel or leaves it, or watches no more. */
  numbers: number[] = [];
  /** 1: `numbers` come, -1: they leave. */
  turn: 1 | 0 | -1 = 0;
  /** 0: nobody. */
  except = 0;
  private text = "";
  private at = 0;

  /** Reads `text`. `=` keeps the numbers that were read before. */
  read(text: string): void {
    const placeEnd = text.indexOf(" ");
    const seqEnd = text.indexOf(" ", placeEnd + 1);
    this.conversation = text.slice(0, placeEnd);
    this.seq = Number(text.slice(placeEnd + 1, seqEnd));
    this.turn = 0;
    this.except = 0;
    this.text = text;
    this.at = seqEnd + 1;
    this.readList();
    if (text.charCodeAt(this.at) === EXCLAMATION) {
      this.at += 1;
      this.except = this.readNumber();
    }
  }

  private readList(): void {
    switch (this.text.charCodeAt(this.at)) {
      case EQUALS:
        this.at += 1;
        return;
      case ASTERISK:
        this.at += 1;
        this.kind = "all";
        return;
      case HASH:
      case TILDE: {
        this.kind = this.text.charCodeAt(this.at) === HASH ? "channel" : "watchers";
        const sign = this.text.charCodeAt(this.at + 1);
        this.turn = sign === PLUS ? 1 : sign === MINUS ? -1 : 0;
        this.at += this.turn === 0 ? 1 : 2;
        this.numbers = [];
        if (this.turn !== 0) this.readNumbers();
        return;
      }
      case SMALL_X:
        // Only this kind has a space behind its letter: a number may begin with one.
        if (this.text.charCodeAt(this.at + 1) === SPACE) {
          this.kind = "close";
          this.at += 2;
          this.readNumbers();
          return;
        }
    }
    this.kind = "list";
    this.readNumbers();
  }

  private readNumbers(): void {
    this.numbers = [];
    while (this.at < this.text.length && this.text.charCodeAt(this.at) !== EXCLAMATION) {
      this.numbers.push(this.readNumber());
      if (this.text.charCodeAt(this.at) === COMMA) this.at += 1;
    }
  }

  private readNumber(): number {
    let number = 0;
    for (; this.at < this.text.length; this.at++) {
      const unit = this.text.charCodeAt(this.at);
      if (unit >= SMALL_A) number = number * 36 + unit - SMALL_A + 10;
      else if (unit >= ZERO) number = number * 36 + unit - ZERO;
      else break;
    }
    return number;
  }
}

const SPACE = 0x20;
const EXCLAMATION = 0x21;
const HASH = 0x23;
const ASTERISK = 0x2a;
const PLUS = 0x2b;
const COMMA = 0x2c;
const MINUS = 0x2d;
const ZERO = 0x30;
const EQUALS = 0x3d;
const SMALL_A = 0x61;
const SMALL_X = 0x78;
const TILDE = 0x7e;
