//! What this machine can do at most: bytes read a second, and 8-bit multiply-adds a second.
//! `rustc -O limits.rs && ./limits 4` prints both for four threads, as JSON. x86-64 with AVX-512-VNNI only.

use std::arch::asm;
use std::time::Instant;

/// Bytes a second that `threads` threads read from memory: the best of several passes over 256 MB each.
fn bandwidth(threads: usize) -> f64 {
    let lots: Vec<Vec<u64>> = (0..threads).map(|t| vec![t as u64 + 1; 32 << 20]).collect();
    let pass = || {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = lots.iter().map(|lot| scope.spawn(move || lot.iter().fold(0u64, |a, b| a ^ b))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        std::hint::black_box(sum);
        (threads * (256 << 20)) as f64 / start.elapsed().as_secs_f64()
    };
    (0..9).map(|_| pass()).fold(0.0, f64::max)
}

/// 8-bit multiply-adds a second that `threads` threads do in registers: 64 in each of 16 independent instructions.
fn multiply_adds(threads: usize) -> f64 {
    const TURNS: u64 = 20_000_000;
    let pass = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                // SAFETY: the caller has seen avx512vnni; every register that is written is named as clobbered.
                scope.spawn(|| unsafe {
                    asm!(
                        "2:",
                        "vpdpbusd zmm0, zmm30, zmm31", "vpdpbusd zmm1, zmm30, zmm31", "vpdpbusd zmm2, zmm30, zmm31",
                        "vpdpbusd zmm3, zmm30, zmm31", "vpdpbusd zmm4, zmm30, zmm31", "vpdpbusd zmm5, zmm30, zmm31",
                        "vpdpbusd zmm6, zmm30, zmm31", "vpdpbusd zmm7, zmm30, zmm31", "vpdpbusd zmm8, zmm30, zmm31",
                        "vpdpbusd zmm9, zmm30, zmm31", "vpdpbusd zmm10, zmm30, zmm31", "vpdpbusd zmm11, zmm30, zmm31",
                        "vpdpbusd zmm12, zmm30, zmm31", "vpdpbusd zmm13, zmm30, zmm31", "vpdpbusd zmm14, zmm30, zmm31",
                        "vpdpbusd zmm15, zmm30, zmm31",
                        "dec {turns}",
                        "jnz 2b",
                        turns = inout(reg) TURNS => _,
                        out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                        out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                        out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                        options(nomem, nostack),
                    );
                });
            }
        });
        (threads as u64 * TURNS * 16 * 64) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let macs = if is_x86_feature_detected!("avx512vnni") { multiply_adds(threads).to_string() } else { "null".into() };
    println!("{{\"bytes_per_second\": {}, \"multiply_adds_per_second\": {macs}}}", bandwidth(threads));
}
