;; Computes NaNs and prints their bits: 40 lines, each with a new one and the first of all, which was kept.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; No compiler can know that it stays zero.
  (global $zero (export "zero") (mut f64) (f64.const 0))

  (func $nan (result f64)
    (f64.div (global.get $zero) (global.get $zero)))

  ;; Writes sixteen digits at `at`.
  (func $hex (param $at i32) (param $bits i64)
    (local $digit i32)
    (local $left i32)
    (local.set $left (i32.const 16))
    (loop $next
      (local.set $bits (i64.rotl (local.get $bits) (i64.const 4)))
      (local.set $digit (i32.and (i32.wrap_i64 (local.get $bits)) (i32.const 15)))
      (i32.store8 (local.get $at)
        (i32.add (local.get $digit)
          (select (i32.const 48) (i32.const 87) (i32.lt_u (local.get $digit) (i32.const 10)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

  (func (export "_start")
    (local $lines i32)
    (local $turns i32)
    (local $new f64)
    (local $first f64)
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 34))
    (i32.store8 (i32.const 32) (i32.const 32))
    (i32.store8 (i32.const 49) (i32.const 10))
    (local.set $first (call $nan))
    (local.set $lines (i32.const 40))
    (loop $line
      (local.set $turns (i32.const 10000000))
      (loop $turn
        (local.set $new (call $nan))
        (br_if $turn (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
      (call $hex (i32.const 16) (i64.reinterpret_f64 (local.get $new)))
      (call $hex (i32.const 33) (i64.reinterpret_f64 (local.get $first)))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $line (local.tee $lines (i32.sub (local.get $lines) (i32.const 1)))))))
