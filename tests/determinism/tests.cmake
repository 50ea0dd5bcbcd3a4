# The full table (ranks 1,2,3,4,5,8 x threads 1,2,3, 1,000 steps) in an optimised build; a smaller one under sanitisers.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
if(EBB_SANITIZE)
  set(bits_size --steps 60 --ranks 1,2,3 --threads 1,2)
else()
  set(bits_size --steps 1000)
endif()
foreach(model sparse-logistic sparse-mlp sparse-unclipped dense-mlp dense-wide-mlp chunks-logistic)
  add_test(NAME determinism.bits.${model} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/bits.py --models ${model} ${bits_size})
  set_tests_properties(determinism.bits.${model} PROPERTIES LABELS determinism TIMEOUT 900 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
endforeach()

# Drawn runs, always the same ones; random_runs.py --first N --count M for more.
add_test(NAME determinism.random_runs COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/random_runs.py --seconds 40)
set_tests_properties(determinism.random_runs PROPERTIES LABELS determinism TIMEOUT 600 PROCESSORS 2
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
