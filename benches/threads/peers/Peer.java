import java.io.IOException;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;

/** Java's part in `cargo xtask bench threads`: the same tasks with virtual threads. See src/peers.rs. */
final class Peer {
    private static final long BLOCKS_MS = 500;

    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[1]);
        // The figure of a virtual thread that asks: the main one is the kernel's.
        Object[] figure = new Object[1];
        start(() -> {
            try {
                figure[0] = figure(arguments[0], count);
            } catch (Exception exception) {
                throw new IllegalStateException(exception);
            }
        }).join();
        System.out.println(figure[0] == null ? "none" : figure[0]);
        System.out.flush();
        if (arguments[0].equals("echo")) {
            System.in.readAllBytes();
            System.exit(0);
        }
    }

    private static Object figure(String task, int count) throws Exception {
        // Once to be compiled, once to be measured.
        return switch (task) {
            case "create" -> { create(count); yield timed(count, () -> create(count)); }
            case "yield" -> { yields(count); yield timed(count, () -> yields(count)); }
            case "channel" -> { channel(count); yield timed(count, () -> channel(count)); }
            case "blocked" -> blocked(count, () -> { });
            case "idle" -> idle(count);
            case "gap", "announced-gap" -> gap();
            case "echo" -> echo();
            default -> null;
        };
    }

    /** Virtual threads by name: compilers of many systems are older than they are. */
    private static Thread start(Runnable runnable) {
        try {
            return (Thread) START.invokeExact(runnable);
        } catch (Throwable exception) {
            throw new IllegalStateException(exception);
        }
    }

    private static final MethodHandle START = findStart();

    private static MethodHandle findStart() {
        var type = MethodType.methodType(Thread.class, Runnable.class);
        try {
            return MethodHandles.lookup().findStatic(Thread.class, "startVirtualThread", type);
        } catch (ReflectiveOperationException exception) {
            throw new IllegalStateException(exception);
        }
    }

    private interface Work {
        void run() throws Exception;
    }

    private static double timed(int count, Work work) throws Exception {
        long start = System.nanoTime();
        work.run();
        return (double) (System.nanoTime() - start) / count;
    }

    private static void create(int count) throws Exception {
        for (int i = 0; i < count; i++) {
            start(() -> { }).join();
        }
    }

    private static void yields(int count) throws Exception {
        Runnable one = () -> {
            for (int i = 0; i < count / 2; i++) {
                Thread.yield();
            }
        };
        Thread first = start(one);
        Thread second = start(one);
        first.join();
        second.join();
    }

    private static void channel(int count) throws Exception {
        var there = new ArrayBlockingQueue<Integer>(1);
        var back = new ArrayBlockingQueue<Integer>(1);
        start(() -> {
            try {
                for (int i = 0; i < count / 2; i++) {
                    back.put(there.take());
                }
            } catch (InterruptedException exception) {
                throw new IllegalStateException(exception);
            }
        });
        for (int i = 0; i < count / 2; i++) {
            there.put(i);
            back.take();
        }
    }

    private static double blocked(int count, Work meanwhile) throws Exception {
        long before = resident();
        var gate = new CountDownLatch(1);
        var arrived = new AtomicInteger();
        var threads = new ArrayList<Thread>(count);
        for (int i = 0; i < count; i++) {
            threads.add(start(() -> {
                arrived.incrementAndGet();
                try {
                    gate.await();
                } catch (InterruptedException exception) {
                    throw new IllegalStateException(exception);
                }
            }));
        }
        while (arrived.get() < count) {
            Thread.yield();
        }
        double bytes = (double) (resident() - before) / count;
        meanwhile.run();
        gate.countDown();
        for (Thread thread : threads) {
            thread.join();
        }
        return bytes;
    }

    private static double idle(int count) throws Exception {
        long[] used = new long[1];
        blocked(count, () -> {
            Thread.sleep(100);
            long before = processorTime();
            Thread.sleep(1000);
            used[0] = processorTime() - before;
        });
        return used[0] / 1e6;
    }

    private static double gap() throws Exception {
        start(() -> {
            try {
                Thread.sleep(20);
                // In the kernel, not in the scheduler: a child process that is waited for by reading a file.
                new ProcessBuilder("sleep", "0." + BLOCKS_MS).start().waitFor();
            } catch (Exception exception) {
                throw new IllegalStateException(exception);
            }
        });
        long start = System.nanoTime();
        long last = start;
        long longest = 0;
        while (System.nanoTime() - start < 2 * BLOCKS_MS * 1_000_000) {
            Thread.sleep(1);
            long now = System.nanoTime();
            longest = Math.max(longest, now - last);
            last = now;
        }
        return longest / 1e6;
    }

    private static int echo() throws IOException {
        var listener = new ServerSocket(0, 1024, InetAddress.getLoopbackAddress());
        start(() -> {
            try {
                while (true) {
                    Socket stream = listener.accept();
                    start(() -> serve(stream));
                }
            } catch (IOException exception) {
                throw new IllegalStateException(exception);
            }
        });
        return listener.getLocalPort();
    }

    private static void serve(Socket stream) {
        var buffer = new byte[4096];
        try (stream) {
            var input = stream.getInputStream();
            var output = stream.getOutputStream();
            int length;
            while ((length = input.read(buffer)) > 0) {
                output.write(buffer, 0, length);
            }
        } catch (IOException exception) {
            // The client is gone.
        }
    }

    private static long resident() throws IOException {
        long sum = 0;
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmRSS:") || line.startsWith("VmPTE:")) {
                sum += Long.parseLong(line.replaceAll("\\D+", "")) * 1024;
            }
        }
        return sum;
    }

    private static long processorTime() throws IOException {
        long sum = 0;
        try (var threads = Files.newDirectoryStream(Path.of("/proc/self/task"))) {
            for (Path thread : threads) {
                sum += Long.parseLong(Files.readString(thread.resolve("schedstat")).split(" ")[0]);
            }
        }
        return sum;
    }
}
